#!/usr/bin/perl
# A worker with a timeout of 2.5 and progress without a denominator. Usage: perl odd_worker.pl HOST PORT
use strict;
use warnings;
use Gearman::Worker;

my ($host, $port) = @ARGV;
$| = 1;

my $worker = Gearman::Worker->new(job_servers => ["$host:$port"]);
$worker->register_function(
    half => 2.5,
    sub {
        my $job = shift;
        no warnings 'uninitialized';
        $job->set_status(1);
        return 'done ' . $job->arg;
    }
);
$worker->work while 1;
