<?php
/*
 * A managed worker on PHP's gearman extension: a monitor finds it, gives it an id, and switches its functions on and off.
 * What is said between them is in the documentation of the crate, in src/fleet/mod.rs.
 *
 * To make it yours: put your functions into $functions, and raise VERSION with every release. Start it as
 *
 *     GEARMAN_SERVERS=queue1:4730,queue2:4730 FLEET_NAME=web php managed_worker.php
 *
 * It is two processes. The one that is started is managed; it starts the other, with `--jobs`, which does the jobs. So it
 * answers while a job runs, survives a job that kills its process, and takes up new code by starting the second one anew.
 * It needs Linux (for /proc) and Debian's php-cli and php-gearman.
 *
 * Environment: GEARMAN_SERVERS, FLEET_NAME and FLEET_HOST; FUNCTIONS="a,b" cuts the list of functions down to some;
 * WORKER_VERSION_FILE names a file whose first line is the version.
 */

const VERSION = '1';

/** The function => what does it. It is called with the job, and what it returns is the result; an exception fails the job. */
$functions = [
    'reverse' => fn (GearmanJob $job): string => strrev($job->workload()),
    'sleep_ms' => function (GearmanJob $job): string {
        usleep(1000 * (int) $job->workload());
        return $job->workload();
    },
    'log_line' => function (GearmanJob $job): string {
        // One write at the file's end, so that the lines of several workers do not mix.
        file_put_contents(getenv('LOG_FILE'), $job->workload() . ' ' . getmypid() . "\n", FILE_APPEND);
        return $job->workload();
    },
    'fail' => fn (GearmanJob $job) => throw new RuntimeException('this function always fails'),
];

/* ---- What follows need not be changed. ---- */

/**
 * How long a process waits for a job before it looks at what the other one has to say. libgearman waits for its own
 * sockets alone, so this is polling; a tenth of a second costs next to nothing and is soon enough for an answer.
 */
const TICK_MS = 100;

/** An answer is due within a second. */
const PATIENCE_S = 0.8;

/** A connection to all servers, on which jobs of these functions are done. */
function connect(array $callbacks): GearmanWorker
{
    $worker = new GearmanWorker();
    // The library reads GEARMAN_SERVERS itself: to add them once more would connect twice.
    getenv('GEARMAN_SERVERS') || $worker->addServer();
    array_walk($callbacks, fn (callable $callback, string $name) => $worker->addFunction($name, $callback));
    return $worker;
}

/**
 * Does a job, or waits a tick for one. False says that a server still owes an answer, which may be a job: the
 * connection must not be given up then.
 *
 * The library's own timeout would also end the wait for an answer that is under way, and drop the job in it. So it does
 * not block, and the timeout is that of wait() alone.
 */
function step(GearmanWorker $worker): bool
{
    $worker->addOptions(GEARMAN_WORKER_NON_BLOCKING);
    $worker->setTimeout(TICK_MS);
    if (@$worker->work()) {
        return true;
    }
    $code = $worker->returnCode();
    $waited = in_array($code, [GEARMAN_IO_WAIT, GEARMAN_NO_JOBS])
        && (@$worker->wait() || $worker->returnCode() === GEARMAN_TIMEOUT);
    // Without a server nothing waits. The library connects anew at the next call.
    $waited || usleep(1000 * TICK_MS);
    return $code !== GEARMAN_IO_WAIT;
}

/** The JSON values of the whole lines that have arrived. */
function messages($stream): iterable
{
    while (($line = stream_get_line($stream, 1 << 20, "\n")) !== false) {
        yield json_decode($line, true);
    }
}

function encode(array $message): string
{
    return json_encode($message, JSON_INVALID_UTF8_SUBSTITUTE | JSON_UNESCAPED_SLASHES | JSON_PRESERVE_ZERO_FRACTION);
}

/** Sends a message to the other process. That it may have died is noticed elsewhere. */
function write($stream, array $message): void
{
    @fwrite($stream, encode($message) . "\n");
}

/** The process with `--jobs`. Each line of its input is the list of functions to do; it ends at the end of its input. */
function do_jobs(array $functions): void
{
    // The manager is told to end, and then tells this process, which must finish its job.
    pcntl_signal(SIGTERM, SIG_IGN);
    $manager = fopen('php://fd/3', 'w');
    $file = getenv('WORKER_VERSION_FILE');
    $version = $file ? trim((string) strtok((string) @file_get_contents($file), "\n")) : VERSION;
    write($manager, ['version' => $version, 'functions' => array_keys($functions)]);

    $worker = null;
    $do = function (GearmanJob $job) use ($functions, $manager, &$worker): ?string {
        // Whatever the job sends goes out whole, however long that takes.
        $worker->removeOptions(GEARMAN_WORKER_NON_BLOCKING);
        $worker->setTimeout(-1);
        $name = $job->functionName();
        $run = ['function' => $name, 'handle' => $job->handle(), 'since' => microtime(true)];
        write($manager, ['running' => [$run]]);
        try {
            $result = (string) $functions[$name]($job);
        } catch (Throwable $error) {
            error_log("$name: {$error->getMessage()}");
            $result = null;
            $job->sendFail();
        }
        write($manager, ['running' => [], 'done' => $name, 'failed' => $result === null]);
        return $result;
    };
    stream_set_blocking(STDIN, false);
    $between_jobs = true;
    while (true) {
        $changed = false;
        foreach ($between_jobs ? messages(STDIN) : [] as $names) {
            // A new connection each time: after a job the library asks for the next one before it says what is no
            // longer done, so that under load unregister() never has an effect.
            $names = array_intersect(array_keys($functions), $names);
            $worker = $names ? connect(array_fill_keys($names, $do)) : null;
            $changed = true;
        }
        if ($between_jobs && feof(STDIN)) {
            return;
        }
        if ($worker) {
            do {
                $between_jobs = step($worker);
            } while ($changed && !$between_jobs);
        }
        if ($changed) {
            write($manager, ['settled' => true]);
        } elseif (!$worker) {
            [$read, $none] = [[STDIN], null];
            stream_select($read, $none, $none, null);
        }
    }
}

/** The process that does the jobs, as the one that is managed sees it. */
final class Jobs
{
    public readonly float $since;
    private array $pipes = [];
    private mixed $process;

    /** `$hello` is its version and its functions, as far as they are known: it says them when it has started. */
    public function __construct(array $command, public array $hello = [])
    {
        $this->since = microtime(true);
        $this->process = proc_open([...$command, '--jobs'], [0 => ['pipe', 'r'], 3 => ['pipe', 'w']], $this->pipes);
        stream_set_blocking($this->pipes[3], false);
    }

    /** Waits so long for it to say what it is. Code that does not start is given up. */
    public function started(float $patience_s): bool
    {
        $end = microtime(true) + $patience_s;
        while (!$this->hello && $this->runs() && microtime(true) < $end) {
            foreach ($this->reports(TICK_MS) as $hello) {
                $this->hello = $hello;
            }
        }
        if (!$this->hello) {
            proc_terminate($this->process, SIGKILL);
        }
        return (bool) $this->hello;
    }

    public function runs(): bool
    {
        return proc_get_status($this->process)['running'];
    }

    public function pid(): int
    {
        return proc_get_status($this->process)['pid'];
    }

    /** What it reports now, or within this time. */
    public function reports(int $wait_ms): iterable
    {
        [$read, $none] = [[$this->pipes[3]], null];
        @stream_select($read, $none, $none, 0, 1000 * $wait_ms);
        return messages($this->pipes[3]);
    }

    /** Has it do jobs of these functions, from the end of the one that runs. */
    public function use(array $names): void
    {
        is_resource($this->pipes[0]) && write($this->pipes[0], $names);
    }

    /** Has it finish its job and end. */
    public function leave(): void
    {
        is_resource($this->pipes[0]) && fclose($this->pipes[0]);
    }
}

/** The process that is managed. */
final class Manager
{
    private Jobs $jobs;
    /** What takes over when `$jobs` has ended: after `reload`. */
    private ?Jobs $next = null;
    private ?GearmanWorker $channel = null;
    private string $id = '';
    private bool $leaving = false;
    private bool $settled = true;
    private float $started;
    private array $in_use = [];
    private array $running = [];
    private array $count = [];
    private array $failures = [];

    /** `$command` starts this program. */
    public function __construct(private array $command)
    {
        $this->started = microtime(true);
        $this->jobs = new Jobs($command);
    }

    public function run(): void
    {
        $this->jobs->started(60) || exit(1);
        pcntl_async_signals(true);
        pcntl_signal(SIGTERM, $this->leave(...));
        $newcomer = connect(['setId' => fn (GearmanJob $job) => $this->set_id($job->workload())]);
        while (!$this->channel && $this->listen()) {
            step($newcomer);
        }
        // The end of its connection drops setId. That must come after the answer: Debian's gearmand takes a running job
        // from a worker that drops its function.
        unset($newcomer);
        while ($this->listen()) {
            step($this->channel);
        }
    }

    private function set_id(string $id): string
    {
        if (!preg_match('/^[A-Za-z0-9._-]{1,64}$/D', $id)) {
            return encode(refusal('the id must have 1 to 64 letters, digits, dots, underscores or hyphens'));
        }
        $this->id = $id;
        $channel = connect(["manage_$id" => fn (GearmanJob $job) => $this->answer($job->workload())]);
        // When the servers have said that there is no job, they know the function.
        $end = microtime(true) + PATIENCE_S;
        while (!step($channel) && microtime(true) < $end) {
        }
        $this->channel = $channel;
        return encode(['ok' => true] + $this->introduction());
    }

    private function answer(string $workload): string
    {
        $this->listen();
        try {
            $request = json_decode($workload, true);
            $names = $request['arguments']['functions'] ?? null;
            $answer = match ($request['verb'] ?? null) {
                'status' => $this->status(),
                'registerFunction' => $this->use([...$this->in_use, ...$this->checked($names)]),
                'unregisterFunction' => $this->use(array_diff($this->in_use, $this->checked($names))),
                'newWorker' => ['pid' => $this->new_worker()],
                'exitWorker' => $this->leave(),
                'reload' => $this->reload(),
                'version' => array_intersect_key($this->introduction(), array_flip(['version', 'language', 'contract'])),
                default => throw new DomainException('the workload must be a JSON object with one of the known verbs'),
            };
            return encode(['ok' => true] + $answer);
        } catch (Throwable $error) {
            return encode(refusal($error->getMessage()));
        }
    }

    private function introduction(): array
    {
        return [
            'contract' => 1, 'id' => $this->id,
            'fleet' => getenv('FLEET_NAME') ?: 'default', 'host' => getenv('FLEET_HOST') ?: gethostname(),
            'pid' => getmypid(), 'language' => 'php', 'started' => $this->started,
        ] + $this->jobs->hello;
    }

    private function status(): array
    {
        return [
            'uptime' => microtime(true) - $this->started,
            'state' => $this->leaving ? 'leaving' : ($this->running ? 'working' : 'idle'),
            'count' => (object) $this->count, 'failures' => (object) $this->failures, 'running' => $this->running,
            'memory' => resident(getmypid()) + resident($this->jobs->pid()),
        ] + $this->functions() + $this->introduction();
    }

    private function functions(): array
    {
        $all = $this->jobs->hello['functions'];
        return [
            'functionInUse' => array_values(array_intersect($all, $this->in_use)),
            'functionNotUse' => array_values(array_diff($all, $this->in_use)),
        ];
    }

    /** The argument `functions`, if all of it makes sense. */
    private function checked(mixed $names): array
    {
        if (!is_array($names) || !array_is_list($names) || $names !== array_filter($names, is_string(...))) {
            throw new InvalidArgumentException('the argument "functions" must be a list of names');
        }
        if ($unknown = array_diff($names, $this->jobs->hello['functions'])) {
            throw new InvalidArgumentException('this worker cannot do: ' . implode(', ', $unknown));
        }
        if ($this->leaving) {
            throw new LogicException('this worker is leaving');
        }
        return $names;
    }

    /** Does jobs of these functions: when this returns, or from the end of the job that runs. */
    private function use(array $names): array
    {
        $this->in_use = array_values($names);
        $this->settled = false;
        $this->jobs->use($this->in_use);
        $end = microtime(true) + PATIENCE_S;
        while (!$this->settled && !$this->running && microtime(true) < $end) {
            $this->listen(TICK_MS);
        }
        return $this->functions();
    }

    /** Starts another one: in a session of its own, without our terminal, and nobody's child. */
    private function new_worker(): int
    {
        $shell = ['sh', '-c', 'setsid "$@" </dev/null >/dev/null 2>&1 & echo $!', 'sh', ...$this->command];
        $process = proc_open($shell, [1 => ['pipe', 'w']], $pipes);
        return (int) stream_get_contents($pipes[1]);
    }

    private function leave(): array
    {
        $this->leaving = true;
        $this->next?->leave();
        $this->jobs->leave();
        return ['state' => 'leaving'];
    }

    private function reload(): array
    {
        $next = $this->leaving ? null : new Jobs($this->command);
        if (!$next?->started(PATIENCE_S)) {
            throw new RuntimeException($next ? 'the new code does not start' : 'this worker is leaving');
        }
        $this->next?->leave();
        $this->next = $next;
        $this->jobs->leave();
        return ['version' => $next->hello['version']];
    }

    /** Hears what the process that does jobs reports, and replaces it when it has ended. False when that was the end. */
    private function listen(int $wait_ms = 0): bool
    {
        // Asked first, so that nothing that it said before its end is missed.
        $runs = $this->jobs->runs();
        foreach ($this->jobs->reports($wait_ms) as $report) {
            $this->jobs->hello = isset($report['functions']) ? $report : $this->jobs->hello;
            $this->running = $report['running'] ?? $this->running;
            $this->settled = $report['settled'] ?? $this->settled;
            if ($done = $report['done'] ?? null) {
                $this->count[$done] = ($this->count[$done] ?? 0) + 1;
                $this->failures[$done] = ($this->failures[$done] ?? 0) + (int) $report['failed'];
            }
        }
        if (!$runs) {
            // The server gives the job of one that died to another worker, or to its successor.
            $this->running = [];
        }
        // At most one a second: code that is broken is not started over and over.
        if (!$runs && !$this->leaving && ($this->next || microtime(true) > $this->jobs->since + 1)) {
            $this->jobs = $this->next ?? new Jobs($this->command, $this->jobs->hello);
            $this->next = null;
            $this->jobs->use($this->in_use);
        }
        return $runs || !$this->leaving;
    }
}

function refusal(string $error): array
{
    return ['ok' => false, 'error' => $error];
}

/** What a process has in memory, in bytes. */
function resident(int $pid): int
{
    preg_match('/VmRSS:\s+(\d+) kB/', (string) @file_get_contents("/proc/$pid/status"), $found);
    return 1024 * (int) ($found[1] ?? 0);
}

if (getenv('FUNCTIONS')) {
    $functions = array_intersect_key($functions, array_flip(explode(',', getenv('FUNCTIONS'))));
}
if (end($argv) === '--jobs') {
    do_jobs($functions);
} else {
    // As it was started, the options of PHP included.
    (new Manager(explode("\0", substr(file_get_contents('/proc/self/cmdline'), 0, -1))))->run();
}
