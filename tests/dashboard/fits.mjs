// Every page at the widths of small and large screens and of a phone, with names that are long, Chinese, Hebrew or no text:
// nothing is wider than the screen, and no text is cut, but for names whose title holds the whole.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";

import { encode, eventually } from "./browser.mjs";
import { Client, Managed, Monitor, Worker, text } from "./gearman.mjs";

const WIDTHS = [1280, 1400, 1920, 390];

const NAMES = [
  "x".repeat(200),
  "a_long_name_of_words_that_goes_on_and_on_as_names_of_classes_do",
  "調整画像大小並且儲存到遠端伺服器的背景工作佇列名稱".repeat(3),
  "שם ארוך מאוד של פונקציה שכתובה מימין לשמאל ואינה נגמרת",
  Buffer.concat([Buffer.from([0xff, 0xfe, 0x01]), Buffer.alloc(60, 0x80)]),
  "🦀".repeat(40),
];

const HUGE = 1e12;

async function bring(port) {
  const client = new Client(port);
  const workers = NAMES.map((name) => new Worker(port, [name, NAMES[0], "resize"], Buffer.from(name).subarray(0, 60)));
  const handles = [];
  for (const name of NAMES) {
    for (let index = 0; index < 3; index += 1) {
      handles.push(await client.submit(name, { workload: Buffer.from(name), unique: Buffer.concat([Buffer.from(name).subarray(0, 40), Buffer.from(String(index))]) }));
    }
    await client.submit(name, { due: Math.floor(Date.now() / 1000) + 86_000, unique: Buffer.from(name).subarray(0, 30) });
  }
  await client.submit("alone");
  await text(port, "pause alone", false);
  await eventually("jobs", () => workers.every((worker) => worker.jobs.length === 1));
  workers.forEach((worker) => worker.progress(worker.jobs[0], 99, 100));
  const status = { fleet: "web", host: "host-with-a-name-that-is-long.rack-17.example.org", version: "2026.11.30-release-candidate", functionInUse: ["resize", ...NAMES.filter((name) => typeof name === "string")], functionNotUse: ["send_mail"], count: { resize: HUGE }, failures: { resize: HUGE },
    state: "working", running: [{ function: NAMES[0], handle: `H:${"h".repeat(40)}:123456789`, since: Date.now() / 1000 - 86_000 }] };
  const managed = new Managed(port, "web-5f0c9a-and-what-else-is-in-an-id", status);
  new Monitor(port, "web", { workers: [managed.status], stopped_hosts: ["web3"] });
  await text(port, "drain client:somebody", false);
  return { handle: workers[2].jobs[0], waiting: handles.at(-1) };
}

// Numbers that take as much room as they may: what the server tells is made larger before the page has it.
async function enlarge(page) {
  await page.route(/\/api\/v1\/(functions|workers|server)(\/|\?|$)/, async (route) => {
    // The page takes back what it asked for when another is shown, and then there is nobody to answer.
    await enlarged(route).catch(() => route.abort().catch(() => {}));
  });
}

async function enlarged(route) {
  const response = await route.fetch();
  const type = response.headers()["content-type"] ?? "";
  if (route.request().method() !== "GET" || response.status() !== 200 || !type.includes("json")) {
    await route.fulfill({ response });
    return;
  }
  const large = (value, key) => {
    if (Array.isArray(value)) {
      return value.map((item) => large(item));
    }
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, large(item, name)]));
    }
    if (/^(p50|p90|p99|mean|oldest_queued)_s$/.test(key)) {
      return 86_399;
    }
    return /^(high|normal|low|scheduled|running|workers|done|failed|requeued|submitted)$|_per_s$/.test(key) && typeof value === "number" ? 99_999 : value;
  };
  await route.fulfill({ response, json: large(await response.json()) });
}

// Runs in the page: what is wrong with how its text fits.
function misfits() {
  const wrong = [];
  const tell = (what, element) => wrong.push(`${what}: ${element.closest("[data-column]")?.dataset.column ?? element.className} "${element.textContent.slice(0, 40)}"`);
  const wide = document.documentElement.scrollWidth - window.innerWidth;
  if (wide > 0) {
    wrong.push(`the page is ${wide} pixels too wide`);
  }
  // What may be cut is cut by itself, and its title or that of what it stands in says all of it.
  const mayBeCut = (cutter, data) => {
    for (let at = cutter; at && at !== document.body; at = at.parentElement) {
      if (at.title.includes(data.trim())) {
        return true;
      }
    }
    return false;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const { data, parentElement } = walker.currentNode;
    if (!data.trim() || !parentElement.checkVisibility() || parentElement.closest(".hidden, svg, noscript, option, select, textarea, .skip, pre")) {
      continue;
    }
    const range = document.createRange();
    range.selectNodeContents(walker.currentNode);
    const box = range.getBoundingClientRect();
    for (let at = parentElement; at && at !== document.documentElement; at = at.parentElement) {
      const isCell = at.matches("td, th");
      if (!isCell && getComputedStyle(at).overflowX === "visible") {
        continue;
      }
      const frame = at.getBoundingClientRect();
      if (frame.width <= 1) {
        // For screen readers alone.
        break;
      }
      if (box.right > frame.right + 1.5 || box.left < frame.left - 1.5) {
        if (!mayBeCut(at, data)) {
          tell(isCell ? "beyond its cell" : "cut", parentElement);
        }
        break;
      }
    }
  }
  for (const scroll of document.querySelectorAll(".scroll")) {
    if (scroll.scrollWidth > scroll.clientWidth) {
      wrong.push(`the table ${scroll.querySelector("table").dataset.table} is ${scroll.scrollWidth - scroll.clientWidth} pixels too wide`);
    }
  }
  for (const cell of document.querySelectorAll("main td, main th, main dd, .tile-value, .badge, .button, nav a")) {
    if (cell.checkVisibility() && cell.scrollWidth > cell.clientWidth + 1 && cell.clientWidth > 1) {
      tell("does not fit", cell);
    }
  }
  return [...new Set(wrong)];
}

export async function fits(dashboard, port, say) {
  const { handle, waiting } = await bring(port);
  const { workers } = await dashboard.api("workers");
  const routes = {
    overview: "", functions: "functions", long: `functions/${encode(NAMES[0])}`, bytes: `functions/${encode(NAMES[4])}`, right: `functions/${encode(NAMES[3])}`,
    workers: "workers", worker: `workers/${workers.find((worker) => worker.job === handle).id}`, fleet: "fleet", jobs: "jobs", queued: `jobs?function=${encode(NAMES[0])}`,
    job: `jobs/${encodeURIComponent(handle)}`, waiting: `jobs/${encodeURIComponent(waiting)}`, server: "server", submit: "submit",
  };
  mkdirSync(process.env.SCREENSHOTS, { recursive: true });
  for (const width of WIDTHS) {
    await dashboard.newPage({ viewport: { width, height: 900 } });
    await enlarge(dashboard.page);
    const found = {};
    for (const [name, route] of Object.entries(routes)) {
      await dashboard.go(route);
      await eventually(`the content of ${name}`, async () => !/Loading…|Waiting for the first/.test(await dashboard.page.locator("main").innerText()));
      await dashboard.page.locator("#identity", { hasText: String(port) }).waitFor();
      await eventually("the workloads", async () => (await dashboard.page.locator("[data-column=preview] .cell > .muted", { hasText: "…" }).count()) === 0);
      const wrong = await dashboard.page.evaluate(misfits);
      if (wrong.length > 0) {
        found[name] = wrong;
      }
      await dashboard.page.screenshot({ path: `${process.env.SCREENSHOTS}/fits-${name}-${width}.png`, fullPage: true });
    }
    assert.deepEqual(found, {}, `${width} pixels wide`);
    say(`${width} pixels`);
  }
  dashboard.quiet();
}
