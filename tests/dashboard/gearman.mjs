// Raw Gearman peers for the tests of the dashboard: a worker that holds its jobs until it is told, a client, and the text
// commands. Names are given as text or as bytes.

import net from "node:net";

const CAN_DO = 1;
const CANT_DO = 2;
const PRE_SLEEP = 4;
const NOOP = 6;
const JOB_CREATED = 8;
const GRAB_JOB = 9;
const NO_JOB = 10;
const JOB_ASSIGN = 11;
const WORK_STATUS = 12;
const WORK_COMPLETE = 13;
const WORK_FAIL = 14;
const SET_CLIENT_ID = 22;
const WORK_EXCEPTION = 25;
const SUBMIT_JOB_EPOCH = 36;
const SUBMIT = {
  foreground: { high: 21, normal: 7, low: 33 },
  background: { high: 32, normal: 18, low: 34 },
};
const HEADER = 12;

function packet(type, ...parts) {
  const body = Buffer.concat(parts.flatMap((part, index) => (index === 0 ? [Buffer.from(part)] : [Buffer.from([0]), Buffer.from(part)])));
  const header = Buffer.alloc(HEADER);
  header.write("\0REQ", 0, "latin1");
  header.writeUInt32BE(type, 4);
  header.writeUInt32BE(body.length, 8);
  return Buffer.concat([header, body]);
}

// A connection that takes packets apart.
class Peer {
  constructor(port) {
    this.rest = Buffer.alloc(0);
    this.closed = false;
    this.socket = net.connect(port, "127.0.0.1");
    this.socket.setNoDelay(true);
    this.socket.on("data", (data) => this.take(data));
    this.socket.on("error", () => { this.closed = true; });
    this.socket.on("close", () => { this.closed = true; });
  }

  take(data) {
    this.rest = Buffer.concat([this.rest, data]);
    while (this.rest.length >= HEADER) {
      const end = HEADER + this.rest.readUInt32BE(8);
      if (this.rest.length < end) {
        return;
      }
      this.on(this.rest.readUInt32BE(4), this.rest.subarray(HEADER, end));
      this.rest = this.rest.subarray(end);
    }
  }

  send(type, ...parts) {
    this.socket.write(packet(type, ...parts));
  }

  end() {
    this.socket.destroy();
  }
}

// Takes jobs, one at a time unless `grab` is called, and keeps them in `jobs` until they are ended.
export class Worker extends Peer {
  constructor(port, functions, clientId) {
    super(port);
    this.jobs = [];
    if (clientId !== undefined) {
      this.send(SET_CLIENT_ID, clientId);
    }
    for (const name of functions) {
      this.send(CAN_DO, name);
    }
    this.grab();
  }

  on(type, body) {
    if (type === NO_JOB) {
      this.send(PRE_SLEEP);
    } else if (type === NOOP) {
      this.grab();
    } else if (type === JOB_ASSIGN) {
      this.jobs.push(body.subarray(0, body.indexOf(0)).toString());
    }
  }

  grab() {
    this.send(GRAB_JOB);
  }

  drop(name) {
    this.send(CANT_DO, name);
  }

  progress(handle, numerator, denominator) {
    this.send(WORK_STATUS, handle, String(numerator), String(denominator));
  }

  complete(result = "") {
    this.send(WORK_COMPLETE, this.jobs.shift(), result);
    this.grab();
  }

  except(why) {
    this.send(WORK_EXCEPTION, this.jobs.shift(), why);
    this.grab();
  }

  fail() {
    this.send(WORK_FAIL, this.jobs.shift());
    this.grab();
  }
}

// Submits jobs, and learns their handles in the order in which it submitted them.
export class Client extends Peer {
  constructor(port) {
    super(port);
    this.waiting = [];
    this.ended = [];
  }

  on(type, body) {
    if (type === JOB_CREATED) {
      this.waiting.shift()?.(body.toString());
    } else if (type === WORK_FAIL) {
      this.ended.push(body.toString());
    }
  }

  submit(name, { workload = "", unique = "", priority = "normal", kind = "background", due } = {}) {
    if (due === undefined) {
      this.send(SUBMIT[kind][priority], name, unique, workload);
    } else {
      this.send(SUBMIT_JOB_EPOCH, name, unique, String(due), workload);
    }
    return new Promise((resolve) => this.waiting.push(resolve));
  }
}

// Asks a text command; the answer is its lines, without the dot that ends a list.
export function text(port, command, isList) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, "127.0.0.1", () => socket.write(`${command}\n`));
    let answer = "";
    socket.on("data", (data) => {
      answer += data;
      if (isList ? /(^|\n)\.\r?\n$/.test(answer) : answer.endsWith("\n")) {
        socket.destroy();
        resolve(answer.split(/\r?\n/).filter((line) => line !== "" && line !== "."));
      }
    });
    socket.on("error", reject);
  });
}

// The lines of `status`: name, jobs, running, workers.
export async function status(port) {
  return (await text(port, "status", true)).map((line) => {
    const [name, ...numbers] = line.split("\t");
    return [name, ...numbers.map(Number)];
  });
}
