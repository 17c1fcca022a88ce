<?php
/*
 * A managed worker on PHP's gearman extension: a monitor finds it, gives it an id, switches its functions on and off.
 * What is said between them is in docs/worker-contract.md.
 *
 *     GEARMAN_SERVERS=queue1:4730,queue2:4730 FLEET_NAME=web php managed_worker.php
 *
 * It needs Linux (for /proc) and Debian's php-cli and php-gearman. To make it yours, change what stands above the line.
 */

/** Another one with every release: the first line of the file VERSION beside this one, or of the one named here. */
define('VERSION', trim(@file(getenv('WORKER_VERSION_FILE') ?: __DIR__ . '/VERSION')[0] ?? '1'));

/** So many of these are started on a host: whoever may submit jobs can ask for one more. */
define('MAX_WORKERS', (int) (getenv('FLEET_MAX_WORKERS') ?: 64));

/** The function => what does it. It is called with the job and returns the result; an exception fails the job. */
define('FUNCTIONS', [
    'reverse' => fn (GearmanJob $job): string => strrev($job->workload()),
    'sleep_ms' => function (GearmanJob $job): string {
        usleep(1000 * (int) $job->workload());
        return $job->workload();
    },
    'log_line' => function (GearmanJob $job): string {
        // One write at the file's end, so that the lines of several workers do not mix.
        file_put_contents(getenv('LOG_FILE'), $job->workload() . ' ' . getmypid() . "\n", FILE_APPEND);
        return $job->workload();
    },
    'fail' => fn (GearmanJob $job) => throw new RuntimeException('this function always fails'),
]);

/*
 * ---------------------------------- What follows need not be touched. ----------------------------------
 *
 * It is two processes. The one that is started is managed, and answers while a job runs; it starts the other, with
 * `--jobs`, which does the jobs. If one of them dies, the other ends after its job, and the monitor starts a new one.
 */

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

/** The last message that has arrived from the other process, if one has. Each is a line. */
function last_message($stream): mixed
{
    while (($line = stream_get_line($stream, 1 << 20, "\n")) !== false) {
        $message = json_decode($line);
    }
    return $message ?? null;
}

/** The process with `--jobs`: it is sent lists of functions to do, says how it is, and ends at the end of its input. */
function do_jobs(): void
{
    // A service manager signals both processes: the other one passes it on, and this one finishes its job.
    pcntl_signal(SIGTERM, SIG_IGN);
    stream_set_blocking(STDIN, false);
    $manager = fopen('php://fd/3', 'w');
    $state = (object) ['functionInUse' => [], 'running' => [], 'count' => new stdClass(), 'failures' => new stdClass()];
    $worker = connect([]);
    $do = function (GearmanJob $job) use ($manager, $state, &$worker): ?string {
        // Whatever the job sends goes out whole, however long that takes.
        $worker->removeOptions(GEARMAN_WORKER_NON_BLOCKING);
        $worker->setTimeout(-1);
        $name = $job->functionName();
        $state->running = [['function' => $name, 'handle' => $job->handle(), 'since' => microtime(true)]];
        @fwrite($manager, json_encode($state) . "\n");
        try {
            $result = (string) FUNCTIONS[$name]($job);
        } catch (Throwable $error) {
            error_log("$name: {$error->getMessage()}");
            $job->sendFail();
            $state->failures->$name = ($state->failures->$name ?? 0) + 1;
        }
        $state->count->$name = ($state->count->$name ?? 0) + 1;
        $state->running = [];
        return $result ?? null;
    };
    while (!feof(STDIN)) {
        while (!step($worker)) {
        }
        @fwrite($manager, json_encode($state) . "\n");
        if (($names = last_message(STDIN)) !== null) {
            // A new connection each time: under load the library's unregister() never has an effect.
            $worker = connect(array_fill_keys($names, $do));
            $state->functionInUse = $names;
        }
    }
}

/** The process that is managed. */
final class Manager
{
    private bool $is_leaving = false;
    private ?GearmanWorker $channel = null;
    private array $me, $in_use = [], $pipes = [];
    private mixed $process, $jobs = null;

    /** `$command` starts this program. */
    public function __construct(private array $command)
    {
        $this->me = [
            'ok' => true, 'contract' => 1, 'id' => null, 'fleet' => getenv('FLEET_NAME') ?: 'default',
            'host' => getenv('FLEET_HOST') ?: gethostname(), 'pid' => getmypid(), 'language' => 'php',
            'version' => VERSION, 'started' => microtime(true), 'functions' => array_keys(FUNCTIONS),
        ];
        $this->process = proc_open([...$command, '--jobs'], [0 => ['pipe', 'r'], 3 => ['pipe', 'w']], $this->pipes);
        stream_set_blocking($this->pipes[3], false);
    }

    /** Answers until the other process has ended. */
    public function run(): never
    {
        pcntl_async_signals(true);
        pcntl_signal(SIGTERM, $this->leave(...));
        // Code that does not start is never found by a monitor.
        while (!$this->jobs && $this->hear()) {
            usleep(1000);
        }
        $connection = connect(['setId' => $this->answer(...)]);
        while ($this->hear()) {
            step($connection);
            // Drops setId, after the answer: C++ gearmand takes a running job from a worker that drops its function.
            $connection = $this->channel ?? $connection;
        }
        exit($this->is_leaving ? 0 : 1);
    }

    /** Hears how the other process is; false when it has ended. */
    private function hear(): bool
    {
        $this->jobs = last_message($this->pipes[3]) ?? $this->jobs;
        return !feof($this->pipes[3]);
    }

    private function answer(GearmanJob $job): string
    {
        try {
            $this->hear();
            $answer = $this->channel ? $this->obey(json_decode($job->workload())) : $this->take_id($job->workload());
        } catch (Throwable $error) {
            $answer = ['ok' => false, 'error' => $error->getMessage()];
        }
        return json_encode($answer, JSON_INVALID_UTF8_SUBSTITUTE);
    }

    private function take_id(string $id): array
    {
        if (!preg_match('/^[A-Za-z0-9._-]{1,64}$/D', $id)) {
            throw new DomainException('the id must have 1 to 64 letters, digits, dots, underscores or hyphens');
        }
        $this->me['id'] = $id;
        $this->channel = connect(["manage_$id" => $this->answer(...)]);
        // When the servers have said that there is no job, they know the function.
        $this->soon(fn () => step($this->channel));
        return $this->me;
    }

    /** Does what a request says. The status has all that is to be answered, and what is too much does no harm. */
    private function obey(mixed $request): array
    {
        match ($request->verb ?? null) {
            'status', 'version' => null,
            'registerFunction' => $this->use($request->arguments->functions ?? null, true),
            'unregisterFunction' => $this->use($request->arguments->functions ?? null, false),
            'exitWorker' => $this->leave(),
            'newWorker' => $news = ['pid' => $this->start_another()],
            'reload' => throw new LogicException('this worker cannot reload: use newWorker, then exitWorker'),
            default => throw new DomainException('the workload must be a JSON object with a verb of the contract'),
        };
        $other = proc_get_status($this->process)['pid'];
        $both = file_get_contents('/proc/self/status') . @file_get_contents("/proc/$other/status");
        preg_match_all('/^VmRSS:\s+(\d+) kB/m', $both, $memory);
        return ($news ?? []) + $this->me + [
            'state' => $this->is_leaving ? 'leaving' : ($this->jobs->running ? 'working' : 'idle'),
            'functionInUse' => $this->in_use,
            'functionNotUse' => array_values(array_diff($this->me['functions'], $this->in_use)),
            'uptime' => microtime(true) - $this->me['started'], 'memory' => 1024 * array_sum($memory[1]),
        ] + (array) $this->jobs;
    }

    /** Does jobs of these functions or does not: when this returns, or from the end of the job that runs. */
    private function use(mixed $names, bool $is_on): void
    {
        $all = $this->me['functions'];
        if (!is_array($names) || array_filter($names, fn (mixed $name) => !in_array($name, $all, true))) {
            throw new DomainException('"functions" must be a list, with no other names than ' . implode(', ', $all));
        }
        $this->is_leaving && throw new LogicException('this worker is leaving');
        $wanted = fn (string $name) => in_array($name, $names) ? $is_on : in_array($name, $this->in_use);
        $this->in_use = array_values(array_filter($all, $wanted));
        @fwrite($this->pipes[0], json_encode($this->in_use) . "\n");
        $is_done = fn () => $this->jobs->running || $this->jobs->functionInUse === $this->in_use;
        $this->soon(fn () => !$this->hear() || $is_done());
    }

    /** In a session of its own, without our terminal, and nobody's child; no more than this host is to bear. */
    private function start_another(): int
    {
        $own = file_get_contents('/proc/self/cmdline');
        $is_like = fn (string $file): bool => @file_get_contents($file) === $own;
        if (count(array_filter(glob('/proc/[0-9]*/cmdline'), $is_like)) >= MAX_WORKERS) {
            throw new LogicException('this host has ' . MAX_WORKERS . ' workers like this one already');
        }
        $shell = ['sh', '-c', 'setsid "$@" </dev/null >/dev/null 2>&1 & echo $!', 'sh', ...$this->command];
        $process = proc_open($shell, [1 => ['pipe', 'w']], $pipes);
        return (int) fgets($pipes[1]);
    }

    private function leave(): void
    {
        $this->is_leaving || fclose($this->pipes[0]);
        $this->is_leaving = true;
    }

    /** Waits for something, but not so long that the answer is late: it is due within a second. */
    private function soon(callable $is_so): void
    {
        for ($end = microtime(true) + 0.8; !$is_so() && microtime(true) < $end; usleep(1000)) {
        }
    }
}

// As it was started, the options of PHP included.
$command = explode("\0", rtrim(file_get_contents('/proc/self/cmdline'), "\0"));
end($argv) === '--jobs' ? do_jobs() : (new Manager($command))->run();
