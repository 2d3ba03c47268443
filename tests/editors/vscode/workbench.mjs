// Drives VS Code's workbench as a user does: opens files, types, reads the screen, saves. Knows nothing of the tests.

import { existsSync, readFileSync } from 'node:fs';

const TIMEOUT_MS = 180_000; // only guards against hanging, on the slowest machine
const POLL_MS = 50;

export class Workbench {
  constructor(page, port, shots) {
    this.page = page;
    this.port = port;
    this.shots = shots;
    this.keyboard = page.keyboard;
    page.setDefaultTimeout(TIMEOUT_MS);
    page.on('dialog', (dialog) => dialog.accept()); // when a window with unsaved files is closed
    this.input = page.locator('.quick-input-widget input[type=text]');
    this.rows = page.locator('.quick-input-list .monaco-list-row');
    this.cells = page.locator('.notebookOverlay .cell-list-container .monaco-list-row');
    this.menu = page.locator('.suggest-widget.visible .monaco-list-row');
    this.details = page.locator('.hover-language-status');
    this.ghost = page.locator('.monaco-editor [class*="ghost-text"]');
    this.toasts = page.locator('.notification-toast');
    this.preview = page.locator('.part.panel').filter({ hasText: 'Refactor Preview' });
  }

  /** Open a folder in a new window, with a file of it. */
  async open(folder, file) {
    const open = JSON.stringify([['openFile', `vscode-remote://127.0.0.1:${this.port}${file}`]]);
    await this.page.goto('about:blank'); // the previous window closes its extension host
    await this.page.goto(`http://127.0.0.1:${this.port}/?folder=${folder}&payload=${encodeURIComponent(open)}`);
    this.file = file;
    await this.focus();
  }

  /** Open another file in the same window. */
  async openInSameWindow(file) {
    await this.openFile(file);
    await this.focus();
  }

  async openFile(file) {
    await this.keyboard.press('Control+P');
    const name = file.split('/').pop();
    await this.input.fill(file);
    await this.rows.filter({ hasText: name }).first().click();
    await this.page.locator('.tab.active', { hasText: name }).first().waitFor();
    this.file = file;
  }

  async openNotebook(file) {
    await this.openFile(file);
    await this.cells.first().waitFor();
  }

  /** Put the cursor at the end of a cell, counted from 0. */
  async focusCell(index) {
    const cell = this.cells.nth(index);
    await cell.click();
    await this.keyboard.press('Escape'); // from the text of a cell to the list of cells
    await this.keyboard.press('Enter');
    await cell.locator('.monaco-editor .view-lines').first().waitFor();
    await this.keyboard.press('Control+End');
  }

  focus() {
    return this.page.locator('.editor-group-container.active .monaco-editor .view-lines').first().click();
  }

  async waitUntil(description, check, timeout = TIMEOUT_MS) {
    for (const end = Date.now() + timeout; Date.now() < end; await this.page.waitForTimeout(POLL_MS)) {
      const result = await check();
      if (result) {
        return result;
      }
    }
    throw new Error(`timed out waiting for ${description}`);
  }

  /** Give something that must not appear the time to appear. */
  async wait(milliseconds) {
    await this.page.waitForTimeout(milliseconds);
  }

  async getStatus() {
    const entry = this.page.locator('[id="status.languageStatus"] a');
    return (await entry.count()) ? (await entry.first().getAttribute('aria-label')) ?? '' : '';
  }

  waitForStatus(text) {
    return this.waitUntil(`a status that says "${text}"`, async () => (await this.getStatus()).includes(text));
  }

  async waitUntilReady() {
    await this.waitForStatus('Code Clippy: ready');
    await this.focus();
  }

  /** Open the hover of the status item; return its text, with reasons and links. */
  async openStatusDetails() {
    await this.page.locator('[id="status.languageStatus"]').click();
    await this.details.waitFor();
    return this.details.textContent();
  }

  /** Move the cursor to the end of a line, counted from 1. */
  async goToLine(line) {
    await this.keyboard.press('Control+Home');
    for (let at = 1; at < line; at++) {
      await this.keyboard.press('ArrowDown');
    }
    await this.keyboard.press('End');
  }

  async type(text) {
    await this.keyboard.type(text, { delay: 40 });
  }

  async getGhostText() {
    return (await this.ghost.allTextContents()).join('').replaceAll('\u00a0', ' ');
  }

  /** Read the texts that extensions show behind lines. */
  getDecorations() {
    return this.page.evaluate(() =>
      [...document.querySelectorAll('.view-lines span')].map((span) => getComputedStyle(span, '::after').content).join(' '),
    );
  }

  waitForGhostText(text) {
    return this.waitUntil(`ghost text "${text}"`, async () => (await this.getGhostText()).includes(text));
  }

  /** Run a command of the palette by its title. */
  async runCommand(title) {
    await this.keyboard.press('F1');
    await this.input.fill(`>${title}`);
    await this.rows.filter({ hasText: title }).first().waitFor();
    await this.keyboard.press('Enter');
  }

  /** Enter a message in the box of the command "Edit with Message". */
  async submitMessage(text) {
    await this.page.locator('.quick-input-title', { hasText: 'Edit with Message' }).waitFor();
    await this.input.fill(text);
    await this.rows.filter({ hasText: text }).first().waitFor();
    await this.keyboard.press('Enter');
  }

  /** Save the file, and read it from the disk. */
  async save() {
    const dirty = this.page.locator('.tab.active.dirty');
    await this.waitUntil('a saved file', async () => {
      await this.keyboard.press('Control+S'); // again if the text has changed since
      return (await dirty.count()) === 0;
    });
    return readFileSync(this.file, 'utf8');
  }

  /** Read the last opened file from the disk. */
  readFile() {
    return readFileSync(this.file, 'utf8');
  }

  /** Save until the file on the disk has the expected text. */
  async saveUntil(expected, timeout) {
    let found = '';
    try {
      await this.waitUntil('the text', async () => (found = await this.save()) === expected, timeout);
    } catch {
      throw new Error(`on the disk: ${JSON.stringify(found)}\nexpected: ${JSON.stringify(expected)}`);
    }
  }

  /** Fail unless all changes in the refactor preview are ticked. */
  async assertPreviewIsTicked() {
    const boxes = await this.preview.locator('.monaco-list-row [role=checkbox].monaco-checkbox').all();
    const isTicked = await Promise.all(boxes.map(async (box) => (await box.getAttribute('aria-checked')) === 'true'));
    if (boxes.length === 0 || isTicked.includes(false)) {
      throw new Error(`ticked: ${isTicked}`);
    }
  }

  /** Press a button of the preview. */
  async answerPreview(name) {
    await this.page.getByRole('button', { name, exact: true }).click();
    await this.preview.waitFor({ state: 'hidden' });
  }

  async assertNoNotification() {
    const shown = await this.toasts.allTextContents();
    if (shown.length > 0) {
      throw new Error(`a notification was shown: ${shown.join(' | ')}`);
    }
  }

  /** Save a picture of the whole window, or of the upper part of the editor. */
  async takeScreenshot(name, height = 0) {
    if (!existsSync(this.shots)) {
      return;
    }
    const editor = height && (await this.page.locator('.part.editor').boundingBox());
    const clip = editor && { x: editor.x, y: editor.y, width: editor.width, height };
    await this.page.screenshot({ path: `${this.shots}/vscode-${name}.png`, ...(clip && { clip }) });
  }
}
