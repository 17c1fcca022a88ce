// Each page shows true numbers while jobs run: those of the JSON interface and of the text commands.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";

import { eventually, parseNumber, same } from "./browser.mjs";
import { Client, Worker, status, text } from "./gearman.mjs";

const REVERSED = 12;

// Peers and jobs: a worker that holds a job, a tool of Debian's and our own that work, and jobs that wait.
async function bring(port) {
  const debian = spawn("gearman", ["-w", "-h", "127.0.0.1", "-p", String(port), "-f", "reverse", "rev"], { stdio: "ignore" });
  const ours = spawn(process.env.GEARMAND, ["work", "-h", "127.0.0.1", "-p", String(port), "-f", "upper", "--", "tr", "a-z", "A-Z"], { stdio: "ignore" });
  process.on("exit", () => [debian, ours].forEach((child) => child.kill()));
  const holder = new Worker(port, ["resize", "dropped_later"], "holder-1");
  const client = new Client(port);
  const held = await client.submit("resize", { workload: "picture.png", unique: "picture", kind: "foreground" });
  await eventually("the job to be taken", () => holder.jobs.length === 1);
  holder.progress(held, 3, 10);
  holder.drop("dropped_later");
  for (const priority of ["high", "high", "normal", "normal", "normal", "low"]) {
    await client.submit("nobody", { workload: `for ${priority}`, priority });
  }
  const scheduled = await client.submit("nobody", { due: Math.floor(Date.now() / 1000) + 3600 });
  await eventually("the tools", async () => {
    const lines = await status(port);
    return ["reverse", "upper"].every((name) => lines.some((line) => line[0] === name && line[3] === 1));
  });
  for (let index = 0; index < REVERSED; index += 1) {
    execFileSync("gearman", ["-h", "127.0.0.1", "-p", String(port), "-f", "reverse", "-s", `word ${index}`]);
  }
  return { holder, client, held, scheduled };
}

export async function pages(dashboard, port, say) {
  const { holder, held, scheduled } = await bring(port);
  await dashboard.go("");
  await overviewIsTrue(dashboard);
  say("overview");
  await functionsAreTrue(dashboard, port);
  say("functions");
  await oneFunctionIsTrue(dashboard);
  say("one function");
  await workersAreTrue(dashboard, port);
  say("workers");
  await oneWorkerIsTrue(dashboard, held, holder);
  say("one worker");
  await jobsAreTrue(dashboard, held, scheduled);
  say("jobs");
  await oneJobIsTrue(dashboard, held, holder);
  say("one job");
  await serverIsTrue(dashboard, port);
  say("server");
  await submitWorks(dashboard);
  say("submit");
  await numbersMove(dashboard, port);
  say("live");
  await aRetriedJobIsTrue(dashboard, port);
  say("a job that was retried");
  // A job that has ended is answered with 404, which browsers write down.
  dashboard.quiet(`/api/v1/jobs/${encodeURIComponent(held)}`);
}

async function overviewIsTrue(dashboard) {
  const server = () => dashboard.api("server");
  await same("queued jobs", () => dashboard.number("queued"), async () => (await server()).jobs.queued);
  assert.equal(await dashboard.number("queued"), 6);
  await same("running jobs", () => dashboard.number("running"), () => 1);
  await same("workers", () => dashboard.number("workers"), async () => Object.values((await server()).workers).reduce((sum, count) => sum + count));
  await same("workers that work", () => dashboard.number("workers-working"), () => 1);
  await eventually("the warning of a function without workers", () => dashboard.page.locator(".notice", { hasText: "6 jobs of" }).filter({ hasText: "nobody" }).count());
  await eventually("charts", async () => (await dashboard.page.locator(".chart path.line").count()) === 5);
  const busiest = await dashboard.table("busiest");
  assert.equal(parseNumber(busiest.nobody.queued), 6);
}

async function functionsAreTrue(dashboard, port) {
  await dashboard.go("functions");
  const shown = async () => Object.entries(await dashboard.table("functions")).map(([name, cells]) =>
    [name, parseNumber(cells.queued) + parseNumber(cells.scheduled) + parseNumber(cells.running), parseNumber(cells.running), parseNumber(cells.workers)]).sort();
  await same("what `status` says", shown, async () => (await status(port)).sort());
  const table = await dashboard.table("functions");
  assert.deepEqual([table.nobody.high, table.nobody.normal, table.nobody.low, table.nobody.scheduled], ["2", "3", "1", "1"]);
  // Sorted by what waits, then by name when asked.
  assert.equal(await dashboard.page.locator("[data-table=functions] tbody tr").first().getAttribute("data-row"), "nobody");
  await dashboard.page.locator("[data-table=functions] .sort", { hasText: "Function" }).click();
  await same("the order by name", () => dashboard.page.locator("[data-table=functions] tbody tr").evaluateAll((rows) => rows.map((row) => row.dataset.row)), async () => (await status(port)).map(([name]) => name).sort());
  await dashboard.page.locator("[data-filter]").fill("REV");
  await same("the filter", async () => Object.keys(await dashboard.table("functions")), () => ["reverse"]);
  await dashboard.page.locator("[data-filter]").fill("");
}

async function oneFunctionIsTrue(dashboard) {
  await dashboard.page.locator("[data-table=functions] a", { hasText: "nobody" }).click();
  await same("queued", () => dashboard.value("queued"), () => "6 (2 high, 3 normal, 1 low)");
  const jobs = async () => (await dashboard.api("jobs?function=nobody")).jobs.map((job) => job.handle).sort();
  await same("its jobs", async () => Object.keys(await dashboard.table("function-jobs")).sort(), jobs);
  await eventually("previews", async () => Object.values(await dashboard.table("function-jobs")).filter((row) => row.preview === "for high").length === 2);
  await eventually("no worker", () => dashboard.page.getByText("No worker can do this function.").count());
  await dashboard.go("functions/reverse");
  await same("what was done", () => dashboard.number("done"), () => REVERSED);
  await same("what was done by its worker", async () => Object.values(await dashboard.table("function-workers")).map((row) => row.done), () => [String(REVERSED)]);
  await eventually("charts", async () => (await dashboard.page.locator(".chart path.line").count()) === 6);
}

async function workersAreTrue(dashboard, port) {
  await dashboard.go("workers");
  const listed = async () => (await text(port, "workers", true)).map((line) => line.split(" : ")).filter(([, functions]) => functions);
  const shown = async () => Object.values(await dashboard.table("workers"));
  await same("as many as `workers` says", async () => (await shown()).length, async () => (await listed()).length);
  const ids = (await listed()).map(([head]) => head.split(" ")[2]).map((id) => (id === "-" ? "–" : id)).sort();
  assert.deepEqual((await shown()).map((row) => row.client).sort(), ids);
  assert.equal(await dashboard.page.locator("tr[data-group='127.0.0.1']").count(), 1);
  const holder = (await shown()).find((row) => row.client === "holder-1");
  assert.equal(holder.state, "working");
  await dashboard.page.locator("select").selectOption("working");
  await same("the filter by state", async () => (await shown()).map((row) => row.client), () => ["holder-1"]);
  await dashboard.page.goBack();
  await same("all of them again", async () => (await shown()).length, async () => (await listed()).length);
}

async function oneWorkerIsTrue(dashboard, held, holder) {
  const { workers } = await dashboard.api("workers?client=holder-1");
  await dashboard.page.locator(`[data-table=workers] tr[data-row="${workers[0].id}"] a`).first().click();
  await same("the job that it holds", async () => Object.keys(await dashboard.table("held")), () => [held]);
  await eventually("its progress", async () => (await dashboard.table("held"))[held].progress.includes("30 %"));
  const bar = () => dashboard.page.locator("[data-table=held] progress").evaluate((progress) => progress.value);
  assert.equal(await bar(), 30);
  holder.progress(held, 4, 5);
  await same("more progress", bar, () => 80);
  assert.deepEqual(Object.keys(await dashboard.table("worker-functions")), ["resize"]);
  await dashboard.page.getByRole("button", { name: /All \(1 dropped\)/ }).click();
  await same("what it has dropped", async () => Object.keys(await dashboard.table("worker-functions")).sort(), () => ["dropped_later", "resize"]);
}

async function jobsAreTrue(dashboard, held, scheduled) {
  const handles = async () => Object.keys(await dashboard.table("jobs")).sort();
  const expected = (query) => async () => (await dashboard.api(`jobs?${query}`)).jobs.map((job) => job.handle).sort();
  await dashboard.go("jobs");
  await same("all jobs", handles, expected("limit=50"));
  assert.equal((await handles()).length, 8);
  await dashboard.page.locator("[name=state]").selectOption("scheduled");
  await same("scheduled jobs", handles, () => [scheduled]);
  await dashboard.page.locator("[name=state]").selectOption("");
  // The page after that has a form of its own.
  await same("all jobs again", handles, expected("limit=50"));
  await dashboard.page.locator("[name=unique]").fill("picture");
  await dashboard.page.keyboard.press("Enter");
  await same("by unique id", handles, () => [held]);
  await dashboard.go("jobs?function=nobody&state=queued");
  await same("a deep link", handles, expected("function=nobody&state=queued"));
  await dashboard.page.goBack();
  await same("back", handles, () => [held]);
}

async function oneJobIsTrue(dashboard, held, holder) {
  await dashboard.page.locator(`[data-table=jobs] tr[data-row="${held}"] a`).first().click();
  await eventually("the timeline", async () => /Submitted[^]*Started[^]*Runs[^]*80 %/.test(await dashboard.page.locator(".timeline").innerText()));
  const { workers } = await dashboard.api("workers?client=holder-1");
  await eventually("a link to the holder", () => dashboard.page.locator("main .facts a", { hasText: workers[0].id }).count());
  const workload = dashboard.page.locator(".workload");
  await same("the workload", () => workload.innerText(), () => "picture.png");
  await dashboard.page.getByRole("button", { name: "Hex", exact: true }).click();
  await same("the workload in digits", async () => (await workload.innerText()).startsWith("000000  70 69 63 74 75 72 65"), () => true);
  await dashboard.page.getByRole("button", { name: "Base64", exact: true }).click();
  await same("the workload in base64", () => workload.innerText(), () => Buffer.from("picture.png").toString("base64"));
  holder.complete("done");
  await eventually("its end", () => dashboard.page.locator("h1 .badge", { hasText: "ended" }).count());
}

async function serverIsTrue(dashboard, port) {
  await dashboard.go("server");
  const [version] = await text(port, "version", false);
  await same("the version", () => dashboard.value("version"), () => version.replace("OK ", ""));
  await same("the process", () => dashboard.number("pid"), async () => (await dashboard.api("server")).pid);
  await same("connections", () => dashboard.number("open"), async () => (await dashboard.api("server")).connections.open);
  await same("what was done", () => dashboard.number("done"), async () => (await dashboard.api("server")).totals.done);
  await eventually("no rules", () => dashboard.page.getByText("All workers get jobs.").count());
}

async function submitWorks(dashboard) {
  await dashboard.go("submit");
  await dashboard.page.locator("[name=function]").fill("reverse");
  await dashboard.page.locator("[name=workload]").fill("desserts");
  await dashboard.click("submit");
  await eventually("the result", async () => (await dashboard.page.locator(".events").innerText()).includes("stressed"));
  await dashboard.page.locator("[name=function]").fill("later");
  await dashboard.page.locator("[name=background]").check();
  await dashboard.click("submit");
  await same("a job in the background", async () => (await dashboard.api("jobs?function=later")).jobs.length, () => 1);
}

// The overview follows what happens without being asked.
async function numbersMove(dashboard, port) {
  await dashboard.go("");
  const before = (await dashboard.api("server")).jobs.queued;
  await same("the number before", () => dashboard.number("queued"), () => before);
  const client = new Client(port);
  await client.submit("nobody");
  await client.submit("nobody");
  await same("two jobs more", () => dashboard.number("queued"), () => before + 2);
  const plot = dashboard.page.locator(".plot").first();
  await plot.hover();
  await eventually("the read-out of the chart", () => dashboard.page.locator(".chart .cursor").count());
}

// The runs that came to nothing stand in the timeline.
async function aRetriedJobIsTrue(dashboard, port) {
  const handle = await new Client(port).submit("retried");
  for (const id of ["first-1", "second-1"]) {
    const worker = new Worker(port, ["retried"], id);
    await eventually("a worker with the job", () => worker.jobs.includes(handle));
    worker.end();
  }
  await dashboard.go(`jobs/${encodeURIComponent(handle)}`);
  const runs = /Run 1[^]*lost its worker[^]*on first-1[^]*Run 2[^]*lost its worker[^]*on second-1[^]*Waits for a worker/;
  await eventually("its earlier runs", async () => runs.test(await dashboard.page.locator(".timeline").innerText()));
}
