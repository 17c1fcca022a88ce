<?php
/* The processes of managed_worker.php: the one that does jobs, as the other one sees it, and workers that it starts. */

/** Starts another worker, in a session of its own, and returns its process id, unless it ends at once. */
function start_another(array $command, int $most): int
{
    $own = file_get_contents('/proc/self/cmdline');
    $is_like = fn (string $file): bool => @file_get_contents($file) === $own;
    if (count(array_filter(glob('/proc/[0-9]*/cmdline'), $is_like)) >= $most) {
        throw new LogicException("this host has $most workers like this one already");
    }
    static $started = [];
    // Asks for those that have ended, which would stay as zombies.
    $started = array_filter($started, fn (mixed $process) => proc_get_status($process)['running']);
    $null = ['file', '/dev/null', 'r+'];
    $process = proc_open(['setsid', ...$command], [$null, $null, $null], $pipes)
        ?: throw new RuntimeException('a worker cannot be started');
    $started[] = $process;
    if (soon(fn () => !proc_get_status($process)['running'], 0.3)) {
        throw new RuntimeException('the new worker has ended as soon as it was started');
    }
    return proc_get_status($process)['pid'];
}

/** The process that does jobs (managed_jobs.php), and the next one that takes its place after `reload`. */
final class JobProcess
{
    /** What it reported last, fields of the status; empty before it has started. */
    public array $state = [];
    /** The functions that it is to do jobs of. */
    public array $in_use = [];
    /** Whether it does no more jobs, and no next one does. */
    public bool $is_leaving = false;
    private array $pipes = [];
    private mixed $process;
    private ?self $next = null;

    /** `$command` starts the worker. */
    public function __construct(private array $command)
    {
        $this->process = proc_open([...$command, '--jobs'], [0 => ['pipe', 'r'], 3 => ['pipe', 'w']], $this->pipes);
        stream_set_blocking($this->pipes[3], false);
    }

    /** Hears what it reports. False when it has ended. */
    public function runs(): bool
    {
        $this->state = heard($this->pipes[3]) + $this->state;
        if (feof($this->pipes[3]) && !$this->is_leaving && $next = $this->next) {
            $counts = array_intersect_key($this->state, ['count' => 0, 'failures' => 0]);
            proc_close($this->process);
            [$this->process, $this->pipes, $this->next] = [$next->process, $next->pipes, null];
            $this->state = $counts + $next->state;
            $this->change($this->in_use, $counts);
        }
        return !feof($this->pipes[3]);
    }

    /** Has it do jobs of these functions and no others: when this returns, or from the end of the job that runs. */
    public function use(array $names): void
    {
        $this->change($names);
        $is_done = fn () => $this->state['running'] || $this->state['functionInUse'] === $this->in_use;
        $this->is_leaving || soon(fn () => !$this->runs() || $is_done());
    }

    /** Has the code that is there now do all jobs after the one that runs, and returns its version. */
    public function reload(): string
    {
        $next = new self($this->command);
        soon(fn () => !$next->runs() || $next->state);
        if (!$next->state) {
            $next->end();
            throw new RuntimeException('the new code does not start, or not in time');
        }
        $this->next?->end();
        $this->close();
        $this->next = $next;
        return $next->state['version'];
    }

    /** Has it end after its job. */
    public function end(): void
    {
        $this->is_leaving = true;
        $this->next?->end();
        $this->next = null;
        $this->close();
    }

    /** The resident memory of both processes, in bytes. */
    public function memory(): int
    {
        $other = proc_get_status($this->process)['pid'];
        $both = file_get_contents('/proc/self/status') . @file_get_contents("/proc/$other/status");
        preg_match_all('/^VmRSS:\s+(\d+) kB/m', $both, $memory);
        return 1024 * array_sum($memory[1]);
    }

    private function close(): void
    {
        is_resource($this->pipes[0]) && fclose($this->pipes[0]);
    }

    private function change(array $names, array $counts = []): void
    {
        $this->in_use = array_values(array_intersect($this->state['functions'], $names));
        $line = json_encode(['functionInUse' => $this->in_use] + $counts) . "\n";
        is_resource($this->pipes[0]) && @fwrite($this->pipes[0], $line);
    }
}
