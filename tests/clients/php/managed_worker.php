<?php
/*
 * A managed worker on PHP's gearman extension: a monitor finds it, gives it an id, switches its functions on and off.
 * What is said between them is in docs/worker-contract.md. The functions, which you replace, are in managed_jobs.php.
 *
 *     GEARMAN_SERVERS=queue1:4730,queue2:4730 FLEET_NAME=web php managed_worker.php
 *
 * It needs Linux (for /proc) and Debian's php-cli and php-gearman. It is two processes: this one is managed, and
 * answers while the other one does a job. If one dies, the other ends after its job, and the monitor starts another.
 */

require __DIR__ . '/managed_connection.php';
require __DIR__ . '/managed_process.php';

/** So many workers are started on a host: whoever may submit jobs can ask for one more. */
define('MAX_WORKERS', (int) (getenv('FLEET_MAX_WORKERS') ?: 64));

final class Manager
{
    private array $me;
    private JobProcess $jobs;
    private ?GearmanWorker $channel = null;

    public function __construct(private array $command)
    {
        $this->me = [
            'ok' => true, 'contract' => 1, 'id' => null, 'fleet' => getenv('FLEET_NAME') ?: 'default',
            'host' => getenv('FLEET_HOST') ?: gethostname(), 'pid' => getmypid(), 'language' => 'php',
            'started' => microtime(true),
        ];
        $this->jobs = new JobProcess($command);
    }

    /** Answers until the process that does jobs has ended. */
    public function run(): never
    {
        pcntl_async_signals(true);
        pcntl_signal(SIGTERM, $this->jobs->end(...));
        // Code that does not start is never found by a monitor.
        for (; $this->jobs->runs() && !$this->jobs->state; usleep(1000)) {
        }
        for ($connection = connect(['setId' => $this->answer(...)]); $this->jobs->runs(); step($connection)) {
            // Drops setId, after the answer: C++ gearmand takes a running job from a worker that drops its function.
            $connection = $this->channel ?? $connection;
        }
        exit($this->jobs->is_leaving ? 0 : 1);
    }

    private function answer(GearmanJob $job): string
    {
        try {
            $this->jobs->runs();
            $answer = $this->channel ? $this->obey(json_decode($job->workload())) : $this->take_id($job->workload());
        } catch (Throwable $error) {
            $answer = ['ok' => false, 'error' => $error->getMessage()];
        }
        return json_encode($answer, JSON_INVALID_UTF8_SUBSTITUTE);
    }

    private function take_id(string $id): array
    {
        if (!preg_match('/^[A-Za-z0-9._-]{1,64}$/D', $id)) {
            throw new DomainException('the id must have 1 to 64 letters, digits, dots, underscores or hyphens');
        }
        $this->me['id'] = $id;
        $this->channel = connect(["manage_$id" => $this->answer(...)]);
        // When the servers have said that there is no job, they know the function.
        soon(fn () => step($this->channel));
        return $this->me + array_intersect_key($this->jobs->state, ['version' => 0, 'functions' => 0]);
    }

    /** Does what a request says. The status has all that is to be answered, and what is too much does no harm. */
    private function obey(mixed $request): array
    {
        [$verb, $names] = [$request->verb ?? null, $request->arguments->functions ?? null];
        if ($this->jobs->is_leaving && in_array($verb, ['registerFunction', 'newWorker', 'reload'], true)) {
            throw new LogicException('this worker is leaving');
        }
        match ($verb) {
            'status', 'version' => null,
            'registerFunction' => $this->jobs->use([...$this->jobs->in_use, ...$this->known($names)]),
            'unregisterFunction' => $this->jobs->use(array_diff($this->jobs->in_use, $this->known($names))),
            'newWorker' => $news = ['pid' => start_another($this->command, MAX_WORKERS)],
            'exitWorker' => $this->jobs->end(),
            'reload' => $news = ['version' => $this->jobs->reload()],
            default => throw new DomainException('the workload must be a JSON object with a verb of the contract'),
        };
        $state = $this->jobs->state;
        return ($news ?? []) + $this->me + [
            'state' => $this->jobs->is_leaving ? 'leaving' : ($state['running'] ? 'working' : 'idle'),
            'functionInUse' => $this->jobs->in_use,
            'functionNotUse' => array_values(array_diff($state['functions'], $this->jobs->in_use)),
            'uptime' => microtime(true) - $this->me['started'], 'memory' => $this->jobs->memory(),
        ] + $state;
    }

    /** These names, which all have to be of functions that this worker could do. */
    private function known(mixed $names): array
    {
        $all = $this->jobs->state['functions'];
        if (!is_array($names) || array_filter($names, fn (mixed $name) => !in_array($name, $all, true))) {
            throw new DomainException('"functions" must be a list, with no other names than ' . implode(', ', $all));
        }
        return $names;
    }
}

// As it was started, the options of PHP included.
$command = explode("\0", rtrim(file_get_contents('/proc/self/cmdline'), "\0"));
end($argv) === '--jobs' ? require __DIR__ . '/managed_jobs.php' : (new Manager($command))->run();
