<?php
/*
 * The functions of managed_worker.php, and the process that does their jobs. `reload` starts this process anew, with
 * the code that is there then. To make it yours, change what stands above the line.
 */

/** Another one with every release: the first line of the file VERSION beside this one, or of the one named here. */
define('VERSION', trim(@file(getenv('WORKER_VERSION_FILE') ?: __DIR__ . '/VERSION')[0] ?? '1'));

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

/* ---------------------------------- What follows need not be touched. ---------------------------------- */

// A service manager signals both processes: the other one passes it on, and this one finishes its job.
pcntl_signal(SIGTERM, SIG_IGN);
stream_set_blocking(STDIN, false);
$manager = fopen('php://fd/3', 'w');
$worker = connect([]);
// These are fields of the worker's status. The other process sends new values of some of them.
$state = (object) [
    'version' => VERSION, 'functions' => array_keys(FUNCTIONS), 'functionInUse' => [],
    'running' => [], 'count' => new stdClass(), 'failures' => new stdClass(),
];
$report = function () use ($manager, $state): void {
    static $last = '';
    $line = json_encode($state) . "\n";
    $line === $last || @fwrite($manager, $last = $line);
};
$do = function (GearmanJob $job) use ($report, $state, &$worker): ?string {
    // Whatever the job sends goes out whole, however long that takes.
    $worker->removeOptions(GEARMAN_WORKER_NON_BLOCKING);
    $worker->setTimeout(-1);
    $name = $job->functionName();
    $state->running = [['function' => $name, 'handle' => $job->handle(), 'since' => microtime(true)]];
    $report();
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
$report();
while (true) {
    $changes = heard(STDIN);
    // The end of its input tells it to end.
    feof(STDIN) && exit;
    if ($changes) {
        foreach ($changes as $field => $value) {
            $state->$field = $value;
        }
        // A new connection each time: under load the library's unregister() never has an effect.
        $worker = connect(array_fill_keys($state->functionInUse, $do));
    }
    while (!step($worker)) {
    }
    $report();
}
