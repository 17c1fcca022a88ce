// Every page, wide and on a phone, light and dark: pictures to look at, and what can be measured of looks. Text can be read
// against its ground, nothing is wider than the screen, and nothing moves when numbers change.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";

import { eventually } from "./browser.mjs";
import { Client, Managed, Monitor, Worker } from "./gearman.mjs";

const SIZES = { wide: { width: 1280, height: 900 }, phone: { width: 390, height: 844 } };

async function bring(port) {
  const client = new Client(port);
  const workers = [["resize_image", "make_thumbnail"], ["resize_image"], ["send_mail"], ["send_mail", "send_sms"], ["index_document"]]
    .map((functions, index) => new Worker(port, functions, `app-${index % 3}`));
  for (let index = 0; index < 40; index += 1) {
    await client.submit(["resize_image", "send_mail", "index_document", "make_report"][index % 4], { workload: JSON.stringify({ id: index, path: `/pictures/${index}.png` }), unique: index % 3 ? `item-${index}` : "", priority: ["normal", "normal", "high", "low"][(index >> 2) % 4] });
  }
  await client.submit("make_report", { due: Math.floor(Date.now() / 1000) + 900, workload: "monthly" });
  await eventually("jobs", () => workers.every((worker) => worker.jobs.length > 0));
  workers[0].progress(workers[0].jobs[0], 35, 100);
  for (let round = 0; round < 3; round += 1) {
    const before = workers[1].jobs[0];
    workers[1].complete("ok");
    await eventually("the next job", () => workers[1].jobs[0] !== before && workers[1].jobs.length === 1);
  }
  workers[2].fail();
  fleetOf(port);
  return workers;
}

// Two hosts, workers in two languages, one of which says nothing, one that waits for its id, and a monitor.
function fleetOf(port) {
  const running = [{ function: "resize_image", handle: "H:build:17", since: Date.now() / 1000 - 14 }];
  const php = { fleet: "web", functionInUse: ["resize_image", "make_thumbnail"], functionNotUse: ["send_mail", "send_sms"], count: { resize_image: 81200 }, failures: { resize_image: 12 } };
  const python = { ...php, host: "web2", language: "python", version: "2", pid: 991, memory: 51_000_000 };
  const workers = [new Managed(port, "web-5f0c9a", { ...php, state: "working", running }), new Managed(port, "web-5f0c9b", { ...php, pid: 4712, state: "leaving" }),
    new Managed(port, "web-60aa01", python), new Managed(port, "web-60aa02", { ...python, pid: 992, functionInUse: [], functionNotUse: Array.from({ length: 11 }, (_, index) => `report_${index}`) })];
  const silent = new Managed(port, "web-silent");
  silent.silent = true;
  new Worker(port, ["setId"]);
  new Monitor(port, "web", { workers: [{ ...workers[0].status, outdated: true }], stopped_hosts: ["web3"] });
}

export async function looks(dashboard, port, say) {
  const workers = await bring(port);
  const busy = workers[0].jobs[0];
  const { workers: listed } = await dashboard.api("workers");
  const id = listed.find((worker) => worker.job === busy).id;
  const routes = {
    overview: "", functions: "functions", function: "functions/resize_image", workers: "workers", worker: `workers/${id}`,
    fleet: "fleet", jobs: "jobs", job: `jobs/${encodeURIComponent(busy)}`, server: "server", submit: "submit",
  };
  mkdirSync(process.env.SCREENSHOTS, { recursive: true });
  for (const [size, viewport] of Object.entries(SIZES)) {
    for (const colorScheme of ["light", "dark"]) {
      await dashboard.newPage({ viewport, colorScheme });
      for (const [name, route] of Object.entries(routes)) {
        await dashboard.go(route);
        await eventually(`the content of ${name}`, async () => !/Loading…|Waiting for the first/.test(await dashboard.page.locator("main").innerText()));
        await measure(dashboard, `${name}, ${size}, ${colorScheme}`);
        await dashboard.page.screenshot({ path: `${process.env.SCREENSHOTS}/${name}-${size}-${colorScheme}.png`, fullPage: true });
      }
      say(`${size} ${colorScheme}`);
    }
  }
  await nothingMoves(dashboard, workers);
  say("nothing moves");
  dashboard.quiet();
}

async function measure(dashboard, where) {
  const wide = await dashboard.page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  assert.ok(wide <= 0, `${where}: ${wide} pixels too wide`);
  assert.deepEqual(await dashboard.page.evaluate(faintText), [], where);
}

// Runs in the page: texts whose contrast with their ground is below 4.5 to 1.
function faintText() {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const read = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([red, green, blue]) => {
    const [r, g, b] = [red, green, blue].map((value) => value / 255).map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = read(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) {
        return color;
      }
    }
    return [255, 255, 255, 255];
  };
  const faint = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest(":disabled, svg, noscript, .hidden")) {
      continue;
    }
    const [one, other] = [luminance(read(getComputedStyle(element).color)), luminance(ground(element))].sort((a, b) => b - a);
    const contrast = (one + 0.05) / (other + 0.05);
    if (contrast < 4.5) {
      faint.add(`${walker.currentNode.data.slice(0, 30)}: ${contrast.toFixed(2)}`);
    }
  }
  return [...faint];
}

// Numbers change, and nothing else.
async function nothingMoves(dashboard, workers) {
  await dashboard.newPage({ viewport: SIZES.wide });
  await dashboard.go("");
  await eventually("numbers", () => dashboard.value("queued"));
  // The time that the server is up says that there was an event.
  const up = () => dashboard.page.locator("main .facts").last().innerText();
  const looked = async () => {
    const before = await up();
    await eventually("an event", async () => (await up()) !== before);
  };
  await looked();
  await dashboard.page.evaluate(() => {
    window.moved = 0;
    new PerformanceObserver((list) => list.getEntries().forEach((entry) => { window.moved += entry.value; })).observe({ type: "layout-shift", buffered: false });
  });
  workers[3].complete("ok");
  await looked();
  await looked();
  await looked();
  const moved = await dashboard.page.evaluate(() => window.moved);
  assert.ok(moved < 0.01, `the layout moved by ${moved}`);
}
