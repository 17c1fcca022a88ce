// What is shown first, and what is said of it: the order of jobs, the health of workers, what waits for nobody.

import assert from "node:assert/strict";

import { eventually, same } from "./browser.mjs";
import { Client, Worker, text } from "./gearman.mjs";

export async function details(dashboard, port, say) {
  await dashboard.go("");
  await dashboard.page.getByText("-p PORT -f reverse rev").waitFor();
  const client = new Client(port);
  await jobsHaveAnOrder(dashboard, port, client);
  say("order");
  await failuresAreOfBothKinds(dashboard, port, client);
  say("failures");
  await whatWaitsForNobodyIsSaid(dashboard, port, client);
  say("notices");
  await scalesAreRound(dashboard);
  say("scales");
  await oneMessageForWhatIsNotThere(dashboard);
  say("one message");
  await digitsFitAPhone(dashboard, client);
  say("phone");
  dashboard.quiet("/api/v1/functions/nowhere");
}

// The server may keep less in memory than there is: what the store alone has is shown as all else.
export async function details_stored(dashboard, port, say) {
  const client = new Client(port);
  const count = 15;
  for (let index = 0; index < count; index += 1) {
    await client.submit("large", { workload: `number ${index} ${"x".repeat(200_000)}` });
  }
  await eventually("jobs that the store alone has", async () => (await dashboard.api("jobs?function=large")).jobs.some((job) => job.workload_bytes === null));
  await dashboard.go("functions/large");
  const shown = async () => Object.values(await dashboard.table("function-jobs")).map((row) => `${row.bytes} ${/number \d+/.exec(row.preview)}`);
  await same("the beginnings and sizes of all", shown, () => Array.from({ length: count }, (_, index) => `195 KiB number ${index}`));
  say("in the store alone");
  dashboard.quiet();
}

// The rows of a table as they stand.
function rows(dashboard, id) {
  return dashboard.page.locator(`[data-table=${id}] tbody tr[data-row]`).evaluateAll((all) => all.map((row) => row.dataset.row));
}

// What runs comes first, though it came last; then what waits as it will be handed out; then what is not due.
async function jobsHaveAnOrder(dashboard, port, client) {
  const queued = [];
  const scheduled = await client.submit("crowd", { due: Math.floor(Date.now() / 1000) + 3600 });
  for (let index = 0; index < 70; index += 1) {
    queued.push(await client.submit("crowd"));
  }
  const running = await client.submit("crowd", { priority: "high" });
  const worker = new Worker(port, ["crowd"]);
  await eventually("its job", () => worker.jobs.length === 1);
  const next = await client.submit("crowd", { priority: "high" });
  const order = [running, next, ...queued];
  await dashboard.go("functions/crowd");
  await same("a function's first jobs", () => rows(dashboard, "function-jobs"), () => order.slice(0, 20));
  await dashboard.page.getByRole("link", { name: "All jobs" }).click();
  await same("its jobs", () => rows(dashboard, "jobs"), () => order.slice(0, 50));
  assert.match(await dashboard.value("order"), /^Jobs that run, then those that wait/);
  await dashboard.click("next-page");
  await same("the rest", () => rows(dashboard, "jobs"), () => [...order.slice(50), scheduled]);
  await dashboard.go("jobs");
  await same("no order", async () => (await dashboard.value("order")).startsWith("In no order."), () => true);
}

// A worker that always fails by exception does not look healthy, and one rule makes one badge.
async function failuresAreOfBothKinds(dashboard, port, client) {
  const worker = new Worker(port, ["breaks"], "breaker");
  await client.submit("breaks");
  await eventually("its first job", () => worker.jobs.length === 1);
  worker.fail();
  await client.submit("breaks");
  await eventually("its second job", () => worker.jobs.length === 1);
  worker.except("why");
  await dashboard.go("functions/breaks");
  const only = async () => Object.values(await dashboard.table("function-workers"))[0];
  await same("both failures", async () => (await only()).failed, () => "2");
  const { id } = (await dashboard.api("workers?client=breaker")).workers[0];
  await dashboard.go("workers");
  await same("both in the list", async () => (await dashboard.table("workers"))[id].failed, () => "2");
  await dashboard.page.locator(`[data-table=workers] tr[data-row="${id}"] [title="1 failed, 1 with an exception, 0 timed out"]`).waitFor();
  await dashboard.go(`workers/${id}`);
  await same("both on its page", () => dashboard.value("failed"), () => "2");
  await same("both of the function", async () => (await dashboard.table("worker-functions")).breaks.failed, () => "2");
  await dashboard.go("functions/breaks");
  await text(port, "disable client:breaker", false);
  await same("its state", async () => (await only()).state, () => "disabled");
  await text(port, "enable client:breaker", false);
}

// Workers that get no jobs are as good as none; and what there is no room for is counted.
async function whatWaitsForNobodyIsSaid(dashboard, port, client) {
  await text(port, "drain client:breaker", false);
  await client.submit("breaks");
  await dashboard.go("functions/breaks");
  await eventually("what waits by now", async () => (await dashboard.page.locator(".legend-item", { hasText: "Queued" }).first().innerText()).endsWith("1"));
  await dashboard.go("");
  await dashboard.page.locator(".notice", { hasText: "all its workers are disabled or drained" }).waitFor();
  for (let index = 0; index < 30; index += 1) {
    await client.submit(`alone${index}`);
  }
  await dashboard.go("server");
  await same("their own card", () => dashboard.number("jobs-queued"), async () => (await dashboard.api("server")).jobs.queued);
  await dashboard.go("");
  // One notice for each reason, however many functions there are, and however long their names.
  for (let index = 0; index < 5; index += 1) {
    await client.submit(`${"long".repeat(50)}${index}`);
    await client.submit(`${"long".repeat(50)}${index}`);
  }
  await dashboard.page.reload();
  await dashboard.page.locator(".notice", { hasText: /^\d+ jobs of 35 functions .* and 32 more\) wait, and no worker can do them\.$/ }).waitFor();
  assert.equal(await dashboard.page.locator(".notice").count(), 2);
  const heights = await dashboard.page.locator(".notice").evaluateAll((all) => all.map((notice) => notice.getBoundingClientRect().height));
  assert.ok(heights.every((height) => height < 70), `notices are ${heights} pixels high`);
}

async function scalesAreRound(dashboard) {
  const scales = await dashboard.page.evaluate(async () => {
    const { stepOf } = await import("/assets/chart.js");
    const { duration, durationMark, mark } = await import("/assets/format.js");
    const steps = [0.9, 12, 150, 1500].map((most) => durationMark(stepOf(most, true)));
    return [steps, [0.25, 0.75, 2.5, 1000].map(mark), [0.25, 0.9997, 12.345, 0.000_999_7].map(duration)];
  });
  assert.deepEqual(scales, [["250 ms", "5 s", "1 min", "10 min"], ["0.25", "0.75", "2.5", "1,000"], ["250 ms", "1.00 s", "12.3 s", "1.00 ms"]]);
}

async function oneMessageForWhatIsNotThere(dashboard) {
  await dashboard.go("functions/nowhere");
  await dashboard.page.getByText("There is no such function.").waitFor();
  await dashboard.page.evaluate(() => new Promise((drawn) => requestAnimationFrame(drawn)));
  assert.equal(await dashboard.page.locator(".notice").count(), 0);
}

async function digitsFitAPhone(dashboard, client) {
  const handle = await client.submit("crowd", { workload: "0123456789abcdefghij" });
  await dashboard.page.setViewportSize({ width: 390, height: 844 });
  await dashboard.go(`jobs/${encodeURIComponent(handle)}`);
  await dashboard.page.getByRole("button", { name: "Hex", exact: true }).click();
  const workload = dashboard.page.locator(".workload");
  await eventually("the digits", async () => (await workload.innerText()).startsWith("000000  30"));
  const lines = (await workload.innerText()).split("\n");
  assert.deepEqual(lines.map((line) => line.slice(0, 6)), ["000000", "000008", "000010"]);
  // No line is broken.
  const { rows, width } = await workload.evaluate((box) => ({ rows: Math.round(box.querySelector("bdi").getBoundingClientRect().height / Number.parseFloat(getComputedStyle(box).lineHeight)), width: box.scrollWidth - box.clientWidth }));
  assert.deepEqual([rows, width], [3, 0]);
}
