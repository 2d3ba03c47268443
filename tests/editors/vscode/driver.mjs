// Runs scenarios in one browser. Reads each as a line on stdin: {"scenario": NAME, ...}. Answers with a line on stdout:
// {"ok": true, "result": ...} or {"ok": false, "error": ...}.
//
// node driver.mjs PORT SHOTS FOLDER_OF_PLAYWRIGHT CHROMIUM

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import * as scenarios from './scenarios.mjs';
import { Workbench } from './workbench.mjs';

const [, , port, shots, modules, executablePath] = process.argv;
const { chromium } = createRequire(`${modules}/`)('playwright-core');
const args = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-sync']
  .concat(['--disable-background-networking', '--disable-component-update']);
const browser = await chromium.launch({ executablePath, headless: true, args });
const context = await browser.newContext({ viewport: { width: 1200, height: 720 } });

async function openWorkbench() {
  return new Workbench(await context.newPage(), port, shots);
}

const workbench = await openWorkbench();
for await (const line of createInterface({ input: process.stdin })) {
  const { scenario, ...params } = JSON.parse(line);
  let answer;
  try {
    answer = { ok: true, result: await scenarios[scenario](workbench, params, openWorkbench) };
  } catch (error) {
    await workbench.takeScreenshot(`failed-${scenario}`).catch(() => undefined);
    answer = { ok: false, error: `${error.stack}\nstatus: ${await workbench.getStatus().catch(() => '')}` };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
