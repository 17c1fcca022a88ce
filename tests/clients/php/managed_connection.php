<?php
/* What both processes of managed_worker.php need: a connection to the servers, and to each other. */

/** libgearman waits for its own sockets alone, so each process looks this often at what the other one has to say. */
const TICK_MS = 100;

/** A connection to all servers, on which jobs of these functions are done. */
function connect(array $callbacks): GearmanWorker
{
    $worker = new GearmanWorker();
    // The library reads GEARMAN_SERVERS itself: to add them once more would connect twice.
    getenv('GEARMAN_SERVERS') || $worker->addServer();
    array_walk($callbacks, fn (callable $callback, string $name) => $worker->addFunction($name, $callback));
    return $worker;
}

/**
 * Does a job, or waits a tick for one. False says that a server still owes an answer, which may be a job. The library's
 * own timeout would lose that one, so it does not block, and the timeout is that of wait() alone.
 */
function step(GearmanWorker $worker): bool
{
    $worker->addOptions(GEARMAN_WORKER_NON_BLOCKING);
    $worker->setTimeout(TICK_MS);
    if (@$worker->work()) {
        return true;
    }
    $is_owed = $worker->returnCode() === GEARMAN_IO_WAIT;
    // Without a server or a function there is nothing to wait for. The library connects anew at the next call.
    @$worker->wait() || $worker->returnCode() === GEARMAN_TIMEOUT || usleep(1000 * TICK_MS);
    return !$is_owed;
}

/** Waits for something, but not so long that an answer is late: it is due within a second. */
function soon(callable $is_so, float $limit_s = 0.8): bool
{
    for ($end = microtime(true) + $limit_s; !($is = $is_so()) && microtime(true) < $end; usleep(1000)) {
    }
    return $is;
}

/** What has arrived from the other process: objects on lines, the fields of later ones in place of earlier ones. */
function heard($stream): array
{
    for ($fields = []; ($line = stream_get_line($stream, 1 << 20, "\n")) !== false;) {
        $fields = (array) json_decode($line) + $fields;
    }
    return $fields;
}
