<?php
// A client on PHP's gearman extension. Usage: php client.php HOST PORT COMMAND [ARGUMENT...]
[, $host, $port, $command] = $argv;
$arguments = array_slice($argv, 4);

$client = new GearmanClient();
$client->addServer($host, (int) $port);

function run(GearmanClient $client, string $function, string $workload, ?string $unique = null): void
{
    $client->setDataCallback(function (GearmanTask $task): void {
        echo 'data ', $task->data(), "\n";
    });
    $client->setWarningCallback(function (GearmanTask $task): void {
        echo 'warning ', $task->data(), "\n";
    });
    $client->setStatusCallback(function (GearmanTask $task): void {
        echo 'status ', $task->taskNumerator(), '/', $task->taskDenominator(), "\n";
    });
    $client->setCompleteCallback(function (GearmanTask $task): void {
        echo 'complete ', $task->data(), "\n";
    });
    $client->setExceptionCallback(function (GearmanTask $task): void {
        echo 'exception ', $task->data(), "\n";
    });
    $client->setFailCallback(function (GearmanTask $task): void {
        echo "fail\n";
    });
    $client->addTask($function, $workload, null, $unique);
    $client->runTasks();
}

switch ($command) {
    case 'run':
    case 'run-exceptions':
        // The extension asks for exceptions on every connection.
        run($client, ...$arguments);
        break;

    case 'background':
        [$function, $workload] = $arguments;
        $handle = $client->doBackground($function, $workload);
        echo "queued\n";
        $seen = false;
        while (true) {
            [$known, $running, $numerator, $denominator] = $client->jobStatus($handle);
            if (!$known) {
                break;
            }
            if ($running && $numerator > 0 && !$seen) {
                echo "running $numerator/$denominator\n";
                $seen = true;
            }
            usleep(10_000);
        }
        echo "finished\n";
        break;

    case 'priorities':
        $client->setCompleteCallback(function (GearmanTask $task): void {
            echo 'complete ', $task->data(), "\n";
        });
        $client->doLowBackground('order', 'low background');
        $client->doBackground('order', 'normal background');
        $client->doHighBackground('order', 'high background');
        $client->addTaskLow('order', 'low');
        $client->addTask('order', 'normal');
        $client->addTaskHigh('order', 'high');
        $client->runTasks();
        break;

    case 'large':
        $workload = str_repeat('0123456789abcdef', intdiv((int) $arguments[0], 16));
        $result = $client->doNormal('reverse', $workload);
        echo 'complete ', strlen($result), $result === strrev($workload) ? ' reversed' : ' wrong', "\n";
        break;

    case 'repeat':
        while (($line = fgets(STDIN)) !== false) {
            do {
                $result = @$client->doNormal('reverse', rtrim($line, "\n"));
                $failed = $client->returnCode() !== GEARMAN_SUCCESS;
                if ($failed) {
                    usleep(50_000);
                }
            } while ($failed);
            echo "complete $result\n";
        }
        break;

    default:
        fwrite(STDERR, "unknown command $command\n");
        exit(2);
}
