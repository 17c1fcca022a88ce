// A worker on gearmanode. Usage: node worker.js HOST PORT
'use strict';

const fs = require('fs');
const gearmanode = require('gearmanode');
const winston = require('winston');

winston.loggers.loggers.forEach((logger) => { logger.silent = true; });

const [host, port] = process.argv.slice(2);

const functions = {
  reverse(job) {
    job.workComplete(Buffer.from(job.payload).reverse());
  },

  fail(job) {
    job.reportError();
  },

  exception(job) {
    job.reportException(job.payload);
  },

  progress(job) {
    job.sendWorkData('one');
    job.reportStatus(1, 3);
    job.reportWarning('careful');
    job.sendWorkData('two');
    job.reportStatus(2, 3);
    job.sendWorkData('three');
    job.reportStatus(3, 3);
    job.workComplete('done');
  },

  order(job) {
    console.log(`order ${job.payload}`);
    job.workComplete(job.payload);
  },

  // The workload names a FIFO: the job ends when somebody has written into it, with what was written.
  gate(job) {
    job.reportStatus(1, 2);
    console.log('gate');
    fs.readFile(job.payload.toString(), (error, data) => {
      if (error) {
        job.reportError();
      } else {
        job.workComplete(data);
      }
    });
  },
};

// The library does not reconnect: a lost connection takes a new worker.
function start() {
  const worker = gearmanode.worker({ host, port: Number(port) });
  worker.once('socketDisconnect', () => setTimeout(start, 50));
  worker.on('error', (error) => console.error(error));
  for (const [name, callback] of Object.entries(functions)) {
    worker.addFunction(name, callback);
  }
}

start();
