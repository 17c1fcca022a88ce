// API client: requests, actions (with a token if one is needed), and the event stream.

import { setClock } from "./format.js";

const BASE = "/api/v1";
const TOKEN = "gearmand-token";

// The connection counts as lost after this time without an event.
const SILENCE_MS = 6000;
const RETRY_MS = 1000;
const LONGEST_RETRY_MS = 5000;
// Number of points in the live charts: ten minutes.
const POINTS = 600;

// An error response of the server.
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

// Encodes a function name as a path segment: empty segments are not possible, and browsers resolve "." and
// "..".
export function segment(id) {
  return ["", ".", ".."].includes(id) ? `=${id}` : id;
}

// The reverse of `segment`.
export function unsegment(text) {
  return /^=\.{0,2}$/.test(text) ? text.slice(1) : text;
}

// The API path of a function.
export function functionPath(id, rest = "") {
  return `/functions/${segment(id)}${rest}`;
}

// A name for a JSON body, from its percent-encoded form: as text, or as base64 if it is not UTF-8.
export function named(member, id) {
  try {
    return { [member]: decodeURIComponent(id) };
  } catch {
    const byte = (_, digits) => String.fromCharCode(Number.parseInt(digits, 16));
    return { [`${member}_base64`]: btoa(id.replace(/%([0-9a-f]{2})/gi, byte)) };
  }
}

// Requests JSON.
export async function get(path, signal) {
  const response = await send(path, { signal, headers: { accept: "application/json" }, cache: "no-store" });
  return response.json();
}

// Runs an action, and asks for a token if one is needed.
export async function act(method, path, body) {
  const response = await sendAction(method, path, body, "application/json");
  const text = await response.text();
  return text ? JSON.parse(text) : {};
}

// Runs an action with an event stream as its response, and calls `each(name, data)` for every event.
export async function actStreaming(path, body, signal, each) {
  const response = await sendAction("POST", path, body, "text/event-stream", signal);
  if (!(response.headers.get("content-type") ?? "").startsWith("text/event-stream")) {
    each("answer", await response.json());
    return;
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) {
      return;
    }
    const blocks = (rest + value.replaceAll("\r", "")).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      readEvent(block, each);
    }
  }
}

function readEvent(block, each) {
  let name = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) {
      name = line.slice(6).trim();
    } else if (line.startsWith("data:")) {
      data.push(line.slice(5).replace(/^ /, ""));
    }
  }
  if (data.length > 0) {
    each(name, JSON.parse(data.join("\n")));
  }
}

// Asks the user for the token in a dialog; set by the page. Resolves to null if cancelled.
let askForToken = async () => null;

export function onTokenNeeded(ask) {
  askForToken = ask;
}

async function sendAction(method, path, body, accept, signal) {
  for (let wrong = false; ; wrong = true) {
    const headers = { accept };
    if (body !== undefined) {
      headers["content-type"] = "application/json";
    }
    const token = sessionStorage.getItem(TOKEN);
    if (token) {
      headers.authorization = `Bearer ${token}`;
    }
    try {
      return await send(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
    } catch (error) {
      if (error.status !== 401) {
        throw error;
      }
      const given = await askForToken(wrong || Boolean(token));
      if (!given) {
        throw error;
      }
      sessionStorage.setItem(TOKEN, given);
    }
  }
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(BASE + path, options);
  } catch (error) {
    if (error.name === "AbortError") {
      throw error;
    }
    throw new ApiError(0, "unreachable", "The server does not answer.");
  }
  if (!response.ok) {
    throw await errorOf(response);
  }
  return response;
}

async function errorOf(response) {
  try {
    const { error } = await response.json();
    return new ApiError(response.status, error.code, error.message);
  } catch {
    return new ApiError(response.status, "unknown", `The server answered ${response.status} ${response.statusText}.`);
  }
}

// The current state of the server. `state` is "connecting", "live", "lost" or "asleep" (the page is hidden).
export const live = {
  state: "connecting",
  server: null,
  top: [],
  // Whether the server is read-only; null until that is known.
  readOnly: null,
  // Host name and Gearman addresses of the server; empty until they are known.
  hostName: null,
  addresses: [],
  // When the values arrived: milliseconds since 1970, and by the monotonic clock.
  at: 0,
  atMonotonic: 0,
  // Rates and queue depths of the last minutes: [unix ms, in, out, failed, queued, running].
  points: [],
};

let source = null;
let retry = 0;
let retryIn = RETRY_MS;
let changed = () => {};

// Keeps `live` up to date while the page is visible, and calls `whenChanged` after every change.
export function follow(whenChanged) {
  changed = whenChanged;
  document.addEventListener("visibilitychange", () => (document.hidden ? pause() : connect()));
  window.addEventListener("online", connect);
  setInterval(() => {
    if (live.state === "live" && performance.now() - live.atMonotonic > SILENCE_MS) {
      lose();
    }
  }, 1000);
  connect();
}

function pause() {
  clearTimeout(retry);
  source?.close();
  source = null;
  if (live.state === "live") {
    live.state = "asleep";
  }
}

function connect() {
  if (document.hidden) {
    return;
  }
  clearTimeout(retry);
  source?.close();
  source = new EventSource(`${BASE}/events`);
  source.addEventListener("overview", (event) => {
    retryIn = RETRY_MS;
    take(JSON.parse(event.data));
  });
  source.addEventListener("error", lose);
  askWhatMayBeDone();
}

async function askWhatMayBeDone() {
  try {
    const server = await get("/server");
    live.readOnly = server.read_only === true;
    live.hostName = server.host_name;
    live.addresses = server.addresses;
    changed();
  } catch {
    // A lost server is detected by the event stream.
  }
}

function take({ top, ...server }) {
  // The start time cannot be compared: it uses the wall clock, which may have been adjusted.
  if (live.server && (live.server.pid !== server.pid || server.uptime_s < live.server.uptime_s)) {
    live.points = [];
    askWhatMayBeDone();
  }
  live.server = server;
  live.top = top ?? [];
  live.at = Date.now();
  live.atMonotonic = performance.now();
  live.state = "live";
  const now = server.started_unix_ms + server.uptime_s * 1000;
  setClock(now);
  const { rates, jobs } = server;
  live.points.push([now, rates.in_per_s, rates.out_per_s, rates.failed_per_s, jobs.queued, jobs.running]);
  if (live.points.length > POINTS) {
    live.points.shift();
  }
  changed();
}

// The stream has ended. A server at its stream limit still responds, so it is polled before it is called
// lost.
async function lose() {
  source?.close();
  source = null;
  clearTimeout(retry);
  retry = setTimeout(connect, retryIn);
  retryIn = Math.min(retryIn * 2, LONGEST_RETRY_MS);
  try {
    take({ ...(await get("/server")), top: live.top });
  } catch {
    live.state = "lost";
    changed();
  }
}

// Reconnects at once.
export function reconnect() {
  retryIn = RETRY_MS;
  connect();
}
