// VS Code's workbench as a person sees and uses it: opens a file, types, looks, saves. Knows nothing of what is tested.

import { existsSync, readFileSync } from 'node:fs';

const PATIENCE_MS = 60_000; // machines that run tests are busy
const LOOK_MS = 50;

export class Workbench {
  constructor(page, port, shots) {
    this.page = page;
    this.port = port;
    this.shots = shots;
    this.keyboard = page.keyboard;
    page.setDefaultTimeout(PATIENCE_MS);
    page.on('dialog', (dialog) => dialog.accept()); // leave a window whose files are not saved
    this.input = page.locator('.quick-input-widget input[type=text]');
    this.rows = page.locator('.quick-input-list .monaco-list-row');
    this.menu = page.locator('.suggest-widget.visible .monaco-list-row');
    this.details = page.locator('.hover-language-status');
    this.ghost = page.locator('.monaco-editor [class*="ghost-text"]');
    this.toasts = page.locator('.notification-toast');
    this.preview = page.locator('.part.panel').filter({ hasText: 'Refactor Preview' });
  }

  /** Open a folder in a new window of the editor, with a file of it. */
  async open(folder, file) {
    const open = JSON.stringify([['openFile', `vscode-remote://127.0.0.1:${this.port}${file}`]]);
    await this.page.goto('about:blank'); // the window before gives up its extension host
    await this.page.goto(`http://127.0.0.1:${this.port}/?folder=${folder}&payload=${encodeURIComponent(open)}`);
    this.file = file;
    await this.focus();
  }

  /** Open another file in the same window. */
  async openHere(file) {
    await this.keyboard.press('Control+P');
    const name = file.split('/').pop();
    await this.input.fill(file);
    await this.rows.filter({ hasText: name }).first().click();
    await this.page.locator('.tab.active', { hasText: name }).first().waitFor();
    this.file = file;
    await this.focus();
  }

  focus() {
    return this.page.locator('.editor-group-container.active .monaco-editor .view-lines').first().click();
  }

  async until(what, look, patience = PATIENCE_MS) {
    for (const end = Date.now() + patience; Date.now() < end; await this.page.waitForTimeout(LOOK_MS)) {
      const seen = await look();
      if (seen) {
        return seen;
      }
    }
    throw new Error(`not seen: ${what}`);
  }

  /** Time for something to appear that must not. */
  async wait(milliseconds) {
    await this.page.waitForTimeout(milliseconds);
  }

  async status() {
    const entry = this.page.locator('[id="status.languageStatus"] a');
    return (await entry.count()) ? (await entry.first().getAttribute('aria-label')) ?? '' : '';
  }

  statusSays(text) {
    return this.until(`a status that says "${text}"`, async () => (await this.status()).includes(text));
  }

  async ready() {
    await this.statusSays('Code Clippy: ready');
    await this.focus();
  }

  /** The status as its hover shows it, with reasons and links. */
  async openDetails() {
    await this.page.locator('[id="status.languageStatus"]').click();
    await this.details.waitFor();
    return this.details.textContent();
  }

  /** Put the cursor at the end of a line, counted from 1. */
  async goto(line) {
    await this.keyboard.press('Control+Home');
    for (let at = 1; at < line; at++) {
      await this.keyboard.press('ArrowDown');
    }
    await this.keyboard.press('End');
  }

  async type(text) {
    await this.keyboard.type(text, { delay: 40 });
  }

  async ghostText() {
    return (await this.ghost.allTextContents()).join('').replaceAll('\u00a0', ' ');
  }

  ghostSays(text) {
    return this.until(`ghost text "${text}"`, async () => (await this.ghostText()).includes(text));
  }

  /** Run a command of the palette by its title. */
  async command(title) {
    await this.keyboard.press('F1');
    await this.input.fill(`>${title}`);
    await this.rows.filter({ hasText: title }).first().waitFor();
    await this.keyboard.press('Enter');
  }

  /** Give a message in the box of the command "Edit with Message". */
  async message(text) {
    await this.page.locator('.quick-input-title', { hasText: 'Edit with Message' }).waitFor();
    await this.input.fill(text);
    await this.rows.filter({ hasText: text }).first().waitFor();
    await this.keyboard.press('Enter');
  }

  /** Save, and read what is on the disk. */
  async save() {
    const dirty = this.page.locator('.tab.active.dirty');
    await this.until('a saved file', async () => {
      await this.keyboard.press('Control+S'); // again where the text changed meanwhile
      return (await dirty.count()) === 0;
    });
    return readFileSync(this.file, 'utf8');
  }

  /** What is on the disk of the file opened last. */
  onDisk() {
    return readFileSync(this.file, 'utf8');
  }

  /** Save until what is on the disk is the text expected. */
  async becomes(expected, patience) {
    let found = '';
    try {
      await this.until('the text', async () => (found = await this.save()) === expected, patience);
    } catch {
      throw new Error(`on the disk: ${JSON.stringify(found)}\nexpected: ${JSON.stringify(expected)}`);
    }
  }

  /** Tick all that the refactor preview shows. */
  async tick() {
    const boxes = this.preview.locator('.monaco-list-row input[type=checkbox], .monaco-list-row [role=checkbox]');
    await boxes.first().click();
  }

  /** Apply what is ticked. */
  async apply() {
    await this.page.getByRole('button', { name: 'Apply', exact: true }).click();
    await this.preview.waitFor({ state: 'hidden' });
  }

  async noToast() {
    const shown = await this.toasts.allTextContents();
    if (shown.length > 0) {
      throw new Error(`a notification was shown: ${shown.join(' | ')}`);
    }
  }

  /** A picture of the whole window, or of its upper part without the side bar. */
  async shot(name, height = 0) {
    if (!existsSync(this.shots)) {
      return;
    }
    const editor = height && (await this.page.locator('.part.editor').boundingBox());
    const clip = editor && { x: editor.x, y: editor.y, width: editor.width, height };
    await this.page.screenshot({ path: `${this.shots}/vscode-${name}.png`, ...(clip && { clip }) });
  }
}
