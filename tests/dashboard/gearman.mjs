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

  can(name) {
    this.send(CAN_DO, name);
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

// A managed worker, or a monitor: answers each job of one function as the contract wants it, by what `answer(request)` says.
export class Answering extends Worker {
  constructor(port, name, answer) {
    super(port, [name]);
    this.asked = [];
    this.answer = answer;
  }

  on(type, body) {
    if (type !== JOB_ASSIGN) {
      super.on(type, body);
      return;
    }
    const handle = body.subarray(0, body.indexOf(0)).toString();
    const request = JSON.parse(body.subarray(body.indexOf(0, body.indexOf(0) + 1) + 1).toString());
    if (request.verb !== "status") {
      this.asked.push(request);
    }
    const answer = this.answer(request);
    if (answer !== null) {
      this.send(WORK_COMPLETE, handle, JSON.stringify(answer));
      this.grab();
    }
  }
}

// A managed worker that says `more` of itself, and does what it is told. One that is `silent` answers nothing.
export class Managed extends Answering {
  constructor(port, id, more = {}) {
    super(port, `manage_${id}`, (request) => (this.silent ? null : this.obey(request)));
    this.silent = false;
    this.status = {
      ok: true, contract: 1, id, fleet: "default", host: "web1", pid: 4711, language: "php", version: "1", started: Date.now() / 1000 - 3700, uptime: 3700,
      state: "idle", functionInUse: ["resize"], functionNotUse: ["mail"], count: { resize: 1200 }, failures: { resize: 3 }, running: [], memory: 20971520, ...more,
    };
  }

  obey({ verb, arguments: { functions = [] } = {} }) {
    const { status } = this;
    const all = [...status.functionInUse, ...status.functionNotUse];
    if (!functions.every((fn) => all.includes(fn))) {
      return { ok: false, error: "a function that it cannot do" };
    }
    if (verb === "registerFunction" || verb === "unregisterFunction") {
      const wanted = new Set(status.functionInUse);
      functions.forEach((fn) => (verb === "registerFunction" ? wanted.add(fn) : wanted.delete(fn)));
      status.functionInUse = all.filter((fn) => wanted.has(fn));
      status.functionNotUse = all.filter((fn) => !wanted.has(fn));
      return { ok: true, functionInUse: status.functionInUse, functionNotUse: status.functionNotUse };
    }
    if (verb === "exitWorker") {
      status.state = "leaving";
    }
    return { status, newWorker: { ok: true, pid: 4712 }, exitWorker: { ok: true, state: "leaving" }, reload: { ok: false, error: "its code is no file" }, version: { ok: true } }[verb];
  }
}

// A monitor of a fleet that says `report` of it.
export class Monitor extends Answering {
  constructor(port, fleet, more = {}) {
    super(port, `fleet_${fleet}`, ({ verb, arguments: { host } = {} }) => {
      if (verb === "status") {
        return this.report;
      }
      this.report.stopped_hosts = verb === "stop" ? [host] : verb === "start" ? [] : this.report.stopped_hosts;
      return { ok: true, did: "taken over" };
    });
    const now = Date.now() / 1000;
    this.report = {
      ok: true, fleet, host: "ops1", pid: 99, started: now - 7200, version: "2", settled: false, outdated: 1,
      functions: [{ function: "resize", min: 1, max: 8, target: 3, workers: 2, waiting: 41, running: 2, oldest: 12.5 }, { function: "mail", min: 0, max: 2, target: 1, workers: 1, waiting: 0, running: 0, oldest: null }],
      workers: [], stopped_hosts: [], unmet: ["resize: 3 workers are wanted, and no host has room for another"],
      events: [{ at: now - 65, what: "newWorker at web1", why: "41 jobs of resize wait", error: null }, { at: now - 5, what: "registerFunction resize at php-2", why: "target is 3", error: "no answer within 5 s" }],
      ...more,
    };
  }
}
