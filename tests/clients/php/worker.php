<?php
// A worker on PHP's gearman extension. Usage: php worker.php HOST PORT
[, $host, $port] = $argv;

$worker = new GearmanWorker();
$worker->addServer($host, (int) $port);

$worker->addFunction('reverse', fn (GearmanJob $job) => strrev($job->workload()));

$worker->addFunction('fail', function (GearmanJob $job): void {
    $job->sendFail();
});

$worker->addFunction('exception', function (GearmanJob $job): void {
    $job->sendException($job->workload());
});

$worker->addFunction('progress', function (GearmanJob $job): string {
    $job->sendData('one');
    $job->sendStatus(1, 3);
    $job->sendWarning('careful');
    $job->sendData('two');
    $job->sendStatus(2, 3);
    $job->sendData('three');
    $job->sendStatus(3, 3);
    return 'done';
});

$worker->addFunction('order', function (GearmanJob $job): string {
    echo 'order ', $job->workload(), "\n";
    return $job->workload();
});

// The workload names a FIFO: the job ends when somebody has written into it, with what was written.
$worker->addFunction('gate', function (GearmanJob $job): string {
    $job->sendStatus(1, 2);
    echo "gate\n";
    return file_get_contents($job->workload());
});

// Without a server, work() returns at once and the extension connects anew at the next call.
while (true) {
    if (!@$worker->work()) {
        usleep(50_000);
    }
}
