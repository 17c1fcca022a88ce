#!/usr/bin/perl
# A worker on Gearman::Worker. Usage: perl worker.pl HOST PORT
use strict;
use warnings;
use Gearman::Worker;

my ($host, $port) = @ARGV;
$| = 1;

my $worker = Gearman::Worker->new(job_servers => ["$host:$port"]);

$worker->register_function(reverse => sub { scalar reverse $_[0]->arg });

# An undefined result is a failure.
$worker->register_function(fail => sub { undef });

$worker->register_function(
    exception => sub {
        my $job = shift;
        $worker->send_work_exception($job, $job->arg);
        return;
    }
);

$worker->register_function(
    progress => sub {
        my $job = shift;
        $worker->send_work_data($job, 'one');
        $job->set_status(1, 3);
        $worker->send_work_warning($job, 'careful');
        $worker->send_work_data($job, 'two');
        $job->set_status(2, 3);
        $worker->send_work_data($job, 'three');
        $job->set_status(3, 3);
        return 'done';
    }
);

$worker->register_function(
    order => sub {
        my $job = shift;
        print 'order ', $job->arg, "\n";
        return $job->arg;
    }
);

# The workload names a FIFO: the job ends when somebody has written into it, with what was written.
$worker->register_function(
    gate => sub {
        my $job = shift;
        $job->set_status(1, 2);
        print "gate\n";
        open my $gate, '<', $job->arg or die "cannot open the gate: $!";
        local $/;
        return scalar <$gate>;
    }
);

# The library reconnects by itself; a server that is away for a moment is asked again after up to 12 s.
$worker->work while 1;
