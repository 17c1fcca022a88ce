#!/usr/bin/perl
# A client on Gearman::Client. Usage: perl client.pl HOST PORT COMMAND [ARGUMENT...]
use strict;
use warnings;
use Gearman::Client;
use Time::HiRes 'sleep';

my ($host, $port, $command, @arguments) = @ARGV;
$| = 1;

sub client {
    return Gearman::Client->new(job_servers => ["$host:$port"], @_);
}

sub run {
    my ($client, $function, $workload, $unique) = @_;
    my $tasks = $client->new_task_set;
    $tasks->add_task(
        $function,
        \$workload,
        {
            uniq         => $unique,
            on_data      => sub { print "data ${$_[0]}\n" },
            on_warning   => sub { print "warning ${$_[0]}\n" },
            on_status    => sub { print "status $_[0]/$_[1]\n" },
            on_complete  => sub { print "complete ${$_[0]}\n" },
            on_exception => sub { print "exception $_[0]\n" },
            on_fail      => sub { print "fail\n" },
        }
    );
    $tasks->wait;
}

my %commands = (
    'run' => sub { run(client(), @_) },

    'run-exceptions' => sub { run(client(exceptions => 1), @_) },

    'background' => sub {
        my ($function, $workload) = @_;
        my $client = client();
        my $handle = $client->dispatch_background($function, \$workload);
        print "queued\n";
        my $seen;
        while (1) {
            my $status = $client->get_status($handle);
            last unless $status->known;
            my ($numerator, $denominator) = @{ $status->progress };
            if ($status->running && $numerator && !$seen++) {
                print "running $numerator/$denominator\n";
            }
            sleep 0.01;
        }
        print "finished\n";
    },

    'priorities' => sub {
        my $client = client();
        $client->dispatch_background('order', \"$_ background", { priority => $_ }) for qw(low normal high);
        my $tasks = $client->new_task_set;
        for my $priority (qw(low normal high)) {
            $tasks->add_task('order', \$priority,
                { priority => $priority, on_complete => sub { print "complete ${$_[0]}\n" } });
        }
        $tasks->wait;
    },

    'large' => sub {
        my $workload = '0123456789abcdef' x ($_[0] / 16);
        my $result   = client()->do_task('reverse', \$workload);
        print 'complete ', length $$result, $$result eq reverse($workload) ? ' reversed' : ' wrong', "\n";
    },

    'repeat' => sub {
        my $client = client();
        while (my $line = <STDIN>) {
            chomp $line;
            my $result;
            # A lost connection is an exception of the library, or no result.
            until (defined $result) {
                $result = eval { $client->do_task('reverse', \$line, { timeout => 5 }) };
                sleep 0.05 unless defined $result;
            }
            print "complete $$result\n";
        }
    },
);

my $run = $commands{$command} or die "unknown command $command\n";
$run->(@arguments);
