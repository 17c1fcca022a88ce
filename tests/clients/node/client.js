// A client on gearmanode. Usage: node client.js HOST PORT COMMAND [ARGUMENT...]
'use strict';

const readline = require('readline');
const gearmanode = require('gearmanode');
const winston = require('winston');

winston.loggers.loggers.forEach((logger) => { logger.silent = true; });

const [host, port, command, ...commandArguments] = process.argv.slice(2);
// A server that went away is asked again after 100 ms.
const client = gearmanode.client({ host, port: Number(port), recoverTime: 100 });
client.on('error', (error) => console.error(error));

// Resolves with the job when it has ended, however it ended.
function submit(name, workload, options = {}) {
  const job = client.submitJob(name, workload, options);
  return new Promise((resolve) => {
    for (const event of ['complete', 'failed', 'exception', 'close', 'error']) {
      job.on(event, () => resolve(job));
    }
  });
}

async function run(name, workload, unique) {
  const job = client.submitJob(name, workload, unique ? { unique } : {});
  job.on('workData', (data) => console.log(`data ${data}`));
  job.on('warning', (data) => console.log(`warning ${data}`));
  job.on('status', (status) => console.log(`status ${status.percent_done_num}/${status.percent_done_den}`));
  await new Promise((resolve) => {
    job.on('complete', () => resolve(console.log(`complete ${job.response}`)));
    job.on('exception', (text) => resolve(console.log(`exception ${text}`)));
    job.on('failed', () => resolve(console.log('fail')));
  });
}

const commands = {
  run,

  async 'run-exceptions'(name, workload) {
    client.jobServers[0].setOption('exceptions');
    await new Promise((resolve) => client.jobServers[0].once('option', resolve));
    await run(name, workload);
  },

  async background(name, workload) {
    const job = client.submitJob(name, workload, { background: true });
    await new Promise((resolve) => job.once('created', resolve));
    console.log('queued');
    let seen = false;
    for (;;) {
      job.getStatus();
      const status = await new Promise((resolve) => job.once('status', resolve));
      if (!status.known) {
        break;
      }
      if (status.running && Number(status.percent_done_num) > 0 && !seen) {
        console.log(`running ${status.percent_done_num}/${status.percent_done_den}`);
        seen = true;
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    console.log('finished');
  },

  async priorities() {
    const priorities = ['low', 'normal', 'high'];
    for (const name of priorities) {
      client.submitJob('order', `${name} background`, { background: true, priority: name.toUpperCase() });
    }
    const jobs = priorities.map((name) => submit('order', name, { priority: name.toUpperCase() }));
    for (const job of await Promise.all(jobs)) {
      console.log(`complete ${job.response}`);
    }
  },

  async large(size) {
    const workload = '0123456789abcdef'.repeat(size / 16);
    const job = await submit('reverse', workload);
    const right = Buffer.from(workload).reverse().equals(job.response);
    console.log(`complete ${job.response.length} ${right ? 'reversed' : 'wrong'}`);
  },

  async repeat() {
    for await (const line of readline.createInterface({ input: process.stdin })) {
      let result;
      while (!result) {
        try {
          result = (await submit('reverse', line)).response;
        } catch {
          // No server within reach: the library throws at once.
          await new Promise((resolve) => setTimeout(resolve, 50));
        }
      }
      console.log(`complete ${result}`);
    }
  },
};

commands[command](...commandArguments).then(() => client.close());
