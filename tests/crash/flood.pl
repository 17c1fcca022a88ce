# Submits background jobs one after the other, and says which ones were acknowledged, until the server is gone.
# Usage: perl flood.pl PORT FUNCTION FIRST LAST
use strict;
use warnings;
use Gearman::Client;
use Gearman::Task;

my ($port, $function, $serial, $last) = @ARGV;
$| = 1;
my $client = Gearman::Client->new(job_servers => ["127.0.0.1:$port"]);
while ($serial <= $last) {
    my $handle = $client->dispatch_background(Gearman::Task->new($function, \"$serial foreign")) or last;
    # The library puts the server before the handle.
    $handle =~ s{^.*//}{};
    print "$serial $handle\n";
    $serial++;
}
