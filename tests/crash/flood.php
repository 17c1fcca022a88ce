<?php
// Submits background jobs one after the other, and says which ones were acknowledged, until the server is gone.
// Usage: php flood.php PORT FUNCTION FIRST LAST
[, $port, $function, $serial, $last] = $argv;
$client = new GearmanClient();
$client->addServer('127.0.0.1', (int) $port);
while ($serial <= $last) {
    $handle = @$client->doBackground($function, "$serial foreign");
    if ($client->returnCode() !== GEARMAN_SUCCESS) {
        break;
    }
    echo "$serial $handle\n";
    $serial++;
}
