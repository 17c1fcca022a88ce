<?php
// A client that is busy when its results come. Usage: php busy.php HOST PORT TASKS FIFO
// It reads from the FIFO when the first of its tasks is done, and takes no other result before somebody has written there.
[, $host, $port, $tasks, $fifo] = $argv;

$client = new GearmanClient();
$client->addServer($host, (int) $port);
$done = 0;
$client->setCompleteCallback(function (GearmanTask $task) use (&$done, $fifo) {
    if ($done === 0) {
        echo "busy\n";
        file_get_contents($fifo);
    }
    $done++;
});
for ($task = 0; $task < (int) $tasks; $task++) {
    $client->addTask('large', 'x');
}
$client->runTasks();
echo "done $done ", $client->returnCode(), "\n";
