// The whole dashboard by keyboard: everything can be reached and is seen to have the focus, and a refresh takes nothing away.

import assert from "node:assert/strict";

import { eventually, same } from "./browser.mjs";
import { Client, Managed, Monitor, Worker } from "./gearman.mjs";

const MOST_STEPS = 200;

const focused = (page) => page.evaluate(() => document.activeElement?.outerHTML.slice(0, 200));

export async function keyboard(dashboard, port, say) {
  const { page } = dashboard;
  const client = new Client(port);
  const worker = new Worker(port, ["typing"], "typist");
  for (let index = 0; index < 3; index += 1) {
    await client.submit("typing", { workload: `page ${index}` });
    await client.submit("reading", { workload: `book ${index}` });
  }
  const held = await eventually("a job", () => worker.jobs[0]);
  await dashboard.go("");
  await eventually("numbers", () => dashboard.value("queued"));
  await shortcuts(dashboard);
  say("shortcuts");
  await filterAndMenu(dashboard);
  say("filter and menu");
  await refreshKeeps(dashboard);
  say("a refresh");
  const managed = new Managed(port, "managed", { fleet: "web" });
  const monitor = new Monitor(port, "web", { stopped_hosts: ["web9"] });
  // It stands in the menu once there is one.
  await page.locator("nav a[data-nav=fleet] .nav-count", { hasText: "1" }).waitFor();
  const { workers } = await dashboard.api("workers?client=typist");
  for (const route of ["", "functions", "functions/typing", "workers", `workers/${workers[0].id}`, "fleet", "jobs", `jobs/${encodeURIComponent(held)}`, "server", "submit"]) {
    await dashboard.go(route);
    await eventually(`the content of ${route}`, async () => !/Loading…|Waiting for the first/.test(await page.locator("main").innerText()));
    if (route === "functions/typing") {
      // Its workers and jobs are looked for when the rest may stand there already.
      await eventually("its jobs", async () => Object.keys(await dashboard.table("function-jobs")).length === 3);
    }
    await everythingIsReached(dashboard, route);
  }
  say("every page");
  await page.setViewportSize({ width: 390, height: 844 });
  await dashboard.go("");
  await page.locator("#nav-toggle").focus();
  await page.keyboard.press("Enter");
  await page.locator("nav a", { hasText: "Jobs" }).focus();
  await page.keyboard.press("Enter");
  await same("jobs by the menu of a phone", () => page.locator("main h1").innerText(), () => "Jobs");
  await page.locator("nav").waitFor({ state: "hidden" });
  say("phone");
  [managed, monitor].forEach((peer) => peer.end());
  dashboard.quiet();
}

async function shortcuts(dashboard) {
  const { page } = dashboard;
  for (const [key, title] of [["f", "Functions"], ["w", "Workers"], ["m", "Fleet"], ["j", "Jobs"], ["s", "Server"], ["n", "Submit a job"], ["o", "Overview"]]) {
    await page.keyboard.press("g");
    await page.keyboard.press(key);
    await same(`g ${key}`, () => page.locator("main h1").innerText(), () => title);
    await same("the title has the focus", () => page.evaluate(() => document.activeElement.textContent), () => title);
  }
  const toggle = page.locator("#theme-toggle");
  const before = await toggle.getAttribute("aria-label");
  await page.keyboard.press("t");
  assert.notEqual(await toggle.getAttribute("aria-label"), before);
  await page.reload();
  await eventually("the page", () => dashboard.value("queued"));
  assert.notEqual(await toggle.getAttribute("aria-label"), before, "the theme is kept");
  await page.keyboard.press("t");
  await page.locator("#shortcuts").focus();
  await page.keyboard.press("?");
  await page.locator("dialog[open]").waitFor();
  await page.keyboard.press("Escape");
  await page.locator("dialog").waitFor({ state: "detached" });
  assert.match(await focused(page), /id="shortcuts"/);
}

async function filterAndMenu(dashboard) {
  const { page } = dashboard;
  await dashboard.go("functions");
  await eventually("two functions", async () => Object.keys(await dashboard.table("functions")).length === 2);
  await page.keyboard.press("/");
  await page.keyboard.type("typ");
  await same("filtered", async () => Object.keys(await dashboard.table("functions")), () => ["typing"]);
  await page.keyboard.press("Escape");
  assert.doesNotMatch(await focused(page), /<input/);
  // What the field says is what the list is filtered by.
  assert.equal(await page.locator("[data-filter]").inputValue(), "");
  await same("all of them again", async () => Object.keys(await dashboard.table("functions")).length, () => 2);
  await page.keyboard.press("/");
  await page.keyboard.type("typ");
  await same("filtered once more", async () => Object.keys(await dashboard.table("functions")), () => ["typing"]);
  await page.locator("[data-table=functions] [data-menu]").focus();
  await page.keyboard.press("Enter");
  await page.locator(".menu").waitFor();
  await page.keyboard.press("ArrowDown");
  assert.match(await focused(page), /limits/);
  await page.keyboard.press("Escape");
  await page.locator(".menu").waitFor({ state: "detached" });
  assert.match(await focused(page), /data-menu/);
  await page.keyboard.press("Enter");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await page.locator("dialog[open] [name=running]").waitFor();
  assert.match(await focused(page), /name="running"/);
  await page.keyboard.press("Control+A");
  await page.keyboard.type("5");
  await page.keyboard.press("Enter");
  await same("limited by keyboard", async () => (await dashboard.api("functions/typing")).max_running, () => 5);
  await page.locator("[data-filter]").fill("");
  // A form that is sent keeps what was typed, since its list is still the one before.
  await dashboard.go("jobs?unique=nothing");
  await page.locator("[name=unique]").focus();
  await page.keyboard.press("Escape");
  assert.equal(await page.locator("[name=unique]").inputValue(), "nothing");
}

// Two refreshes later the same element has the focus, the same text is selected, and what was typed stands.
async function refreshKeeps(dashboard) {
  const { page } = dashboard;
  await dashboard.go("jobs");
  await eventually("jobs", async () => Object.keys(await dashboard.table("jobs")).length === 6);
  const looks = () => page.waitForResponse((response) => response.url().includes("/api/v1/jobs?"));
  await page.locator("[name=unique]").fill("half a na");
  await page.evaluate(() => {
    const link = document.querySelector("[data-table=jobs] tbody a");
    link.focus();
    window.kept = { link, text: document.querySelector("[data-table=jobs] tbody tr:last-child th bdi").firstChild };
    window.getSelection().selectAllChildren(window.kept.text.parentNode);
  });
  await looks();
  await looks();
  const kept = await page.evaluate(() => ({
    focus: document.activeElement === window.kept.link,
    selection: window.getSelection().toString() === window.kept.text.data && window.kept.text.isConnected,
    typed: document.querySelector("[name=unique]").value,
  }));
  assert.deepEqual(kept, { focus: true, selection: true, typed: "half a na" });
}

// Tab comes to everything that can be used, and what has the focus is marked.
async function everythingIsReached(dashboard, route) {
  const { page } = dashboard;
  await page.evaluate(() => {
    document.activeElement?.blur();
    window.reached = new Set();
    window.unmarked = [];
  });
  await page.locator("#skip").focus();
  for (let step = 0; step < MOST_STEPS; step += 1) {
    const ended = await page.evaluate(() => {
      const element = document.activeElement;
      if (!element || element === document.body || (element.id === "skip" && window.reached.size > 0)) {
        return true;
      }
      window.reached.add(element);
      const style = getComputedStyle(element);
      if (style.outlineStyle === "none" || parseFloat(style.outlineWidth) === 0) {
        window.unmarked.push(element.outerHTML.slice(0, 120));
      }
      return false;
    });
    if (ended) {
      break;
    }
    await page.keyboard.press("Tab");
  }
  const missed = await page.evaluate(() => {
    const usable = [...document.querySelectorAll("a[href], button, input, select, textarea, [tabindex='0']")];
    const seen = usable.filter((element) => element.checkVisibility({ visibilityProperty: true }) && !element.disabled);
    return { missed: seen.filter((element) => !window.reached.has(element)).map((element) => element.outerHTML.slice(0, 120)), unmarked: window.unmarked, count: seen.length };
  });
  assert.ok(missed.count > 8, `${route}: only ${missed.count} things to use`);
  assert.deepEqual({ missed: missed.missed, unmarked: missed.unmarked }, { missed: [], unmarked: [] }, route);
  const nameless = await page.evaluate(() => [...document.querySelectorAll("button, a[href], input, select, textarea")].filter((element) =>
    element.checkVisibility() && !(element.textContent.trim() || element.getAttribute("aria-label") || element.title || element.labels?.length)).map((element) => element.outerHTML));
  assert.deepEqual(nameless, [], `${route}: without a name`);
}
