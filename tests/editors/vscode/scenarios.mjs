// What the tests do in the workbench, a function each; the texts come from the tests.

/** Open a file in a window of its own, and wait for the server. */
export async function open(vscode, { folder, file }) {
  await vscode.open(folder, file);
  await vscode.ready();
}

/** Open a file in the window that is there. */
export async function openHere(vscode, { file }) {
  await vscode.openHere(file);
  await vscode.ready();
}

/** Open a file in a window of its own, and see what the status says; nothing pops up. */
export async function openUntil(vscode, { folder, file, status }) {
  await vscode.open(folder, file);
  await vscode.statusSays(status);
  await vscode.wait(1000);
  await vscode.noToast();
}

export async function ready(vscode) {
  await vscode.ready();
}

/** Type at the end of a line; returns the ghost text that appears. */
export async function ghost(vscode, { line, type, says = '', shot = '' }) {
  await vscode.goto(line);
  await vscode.type(type);
  await vscode.ghost.first().waitFor();
  await vscode.ghostSays(says);
  await shoot(vscode, shot);
  return vscode.ghostText();
}

/** Type at the end of a line, whatever appears. */
export async function write(vscode, { line, type }) {
  await vscode.goto(line);
  await vscode.type(type);
}

/** Ghost text appears by itself; returns it. */
export async function shown(vscode, { says = '' } = {}) {
  await vscode.ghost.first().waitFor();
  await vscode.ghostSays(says);
  return vscode.ghostText();
}

/** Type what the ghost text says, or nothing; see what is left of it. */
export async function left(vscode, { type = '', says }) {
  await vscode.type(type);
  await vscode.until(`"${says}" left`, async () => (await vscode.ghostText()).trim() === says);
}

/** Type, and see no ghost text; what was typed is taken back until there is none. */
export async function noGhost(vscode, { line, type }) {
  await vscode.goto(line);
  await vscode.until('typing without ghost text', async () => {
    await vscode.type(type);
    await vscode.wait(1500);
    const quiet = (await vscode.ghost.count()) === 0;
    await vscode.keyboard.press('Escape');
    for (const _ of type) {
      await vscode.keyboard.press('Backspace');
    }
    return quiet;
  });
}

/** Type until there is ghost text. */
export async function ghostAgain(vscode, { line, type, says }) {
  await vscode.goto(line);
  await vscode.until('ghost text again', async () => {
    await vscode.type(type);
    await vscode.wait(1500);
    if ((await vscode.ghostText()).includes(says)) {
      return true;
    }
    await vscode.keyboard.press('Escape');
    for (const _ of type) {
      await vscode.keyboard.press('Backspace');
    }
    return false;
  });
}

export async function press(vscode, { keys }) {
  for (const key of keys) {
    await vscode.keyboard.press(key);
  }
}

export async function save(vscode) {
  await vscode.save();
}

export async function becomes(vscode, { text }) {
  await vscode.becomes(text);
}

/** Ask for the completion list by its key. */
export async function menu(vscode, { line, type, says, shot = '' }) {
  await vscode.goto(line);
  await vscode.type(type);
  await vscode.ghost.first().waitFor();
  await vscode.keyboard.press('Escape');
  await vscode.keyboard.press('Control+Space');
  await vscode.menu.filter({ hasText: says }).first().waitFor();
  await shoot(vscode, shot);
}

export async function command(vscode, { title }) {
  await vscode.command(title);
}

/** Edit with a message: around a line's cursor, or all there is; by the key or through the palette. */
export async function edit(vscode, { line, message, palette = false, all = false }) {
  await vscode.goto(line);
  if (all) {
    await vscode.keyboard.press('Control+A');
  }
  if (palette) {
    await vscode.command('Code Clippy: Edit with Message');
  } else {
    await vscode.keyboard.press('Control+Alt+E');
  }
  await vscode.message(message);
}

/** The preview comes; ticked, the difference stands in the editor. */
export async function previewed(vscode, { row, shot = '' }) {
  const changed = vscode.preview.locator('.monaco-list-row', { hasText: row });
  await changed.waitFor();
  await vscode.tick();
  await changed.click();
  await vscode.page.locator('.monaco-diff-editor').first().waitFor();
  await vscode.wait(1000);
  await shoot(vscode, shot, 650);
}

export async function apply(vscode) {
  await vscode.apply();
}

/** A diff is shown in a tab of its own; a button of the question about it is pressed. */
export async function choose(vscode, { tab, line, button, shot = '' }) {
  await vscode.page.locator('.tab', { hasText: tab }).first().waitFor();
  await vscode.page.locator('.view-line', { hasText: line }).first().waitFor();
  const toast = vscode.toasts.filter({ hasText: 'apply this edit' }).first();
  await toast.getByText(button, { exact: true }).first().waitFor();
  await shoot(vscode, shot, 650);
  await toast.getByText(button, { exact: true }).first().click();
}

/** The tabs whose name has a text in it are so many; returns the names of all that are not saved. */
export async function tabs(vscode, { name, count }) {
  const named = vscode.page.locator('.tab', { hasText: name });
  await vscode.until(`${count} tabs of ${name}`, async () => (await named.count()) === count);
  return vscode.page.locator('.tab.dirty').allTextContents();
}

/** Save all until what is on the disk of the file opened last is the text expected. */
export async function savedAs(vscode, { text }) {
  await vscode.until('the text', async () => {
    await vscode.command('File: Save All');
    return vscode.onDisk() === text;
  });
}

/** Take the last change back, once. */
export async function undo(vscode) {
  await vscode.focus();
  await vscode.keyboard.press('Control+Z');
}

/** Cancel the edit under way through the palette. */
export async function cancelEdit(vscode, { title }) {
  await vscode.statusSays(title);
  await vscode.command('Code Clippy: Cancel Edit');
  await vscode.statusSays('Code Clippy: ready');
}

export async function status(vscode, { says }) {
  await vscode.statusSays(says);
}

/** The reason and the links in the status item's hover. */
export async function details(vscode, { shot = '' }) {
  const text = await vscode.openDetails();
  await shoot(vscode, shot, 670);
  return text;
}

/** Click a link of the status item's hover. */
export async function follow(vscode, { link }) {
  await vscode.details.getByText(link).click();
}

/** Pick a row of the list that is open. */
export async function pick(vscode, { row }) {
  await vscode.rows.filter({ hasText: row }).first().click();
}

export async function closeAll(vscode) {
  await vscode.command('File: Save All');
  await vscode.until('all saved', async () => (await vscode.page.locator('.tab.dirty').count()) === 0);
  await vscode.command('View: Close All Editors');
  await vscode.until('no editor', async () => (await vscode.page.locator('.tab').count()) === 0);
}

/** Type into the box that is open, and press Enter. */
export async function answer(vscode, { text }) {
  await vscode.page.locator('.quick-input-message').filter({ hasText: 'Enter' }).waitFor();
  await vscode.input.fill(text);
  await vscode.keyboard.press('Enter');
}

/** The rows that the box for a message offers; leaves it. */
export async function offered(vscode) {
  await vscode.keyboard.press('Control+Alt+E');
  await vscode.page.locator('.quick-input-title', { hasText: 'Edit with Message' }).waitFor();
  await vscode.rows.first().waitFor();
  const rows = await vscode.rows.allTextContents();
  await vscode.keyboard.press('Escape');
  return rows;
}

/** Wait for a text anywhere in the window. */
export async function seen(vscode, { text }) {
  await vscode.page.getByText(text).first().waitFor();
}

/** A text of the status bar. */
export async function bar(vscode, { says }) {
  await vscode.page.locator('.part.statusbar', { hasText: says }).waitFor();
}

/** Split the editor; the new group is the active one. */
export async function split(vscode) {
  await vscode.keyboard.press('Control+\\');
  await vscode.until('two groups', async () => (await vscode.page.locator('.editor-group-container').count()) === 2);
  await vscode.focus();
}

export async function unsplit(vscode) {
  await vscode.command('View: Join All Editor Groups');
  await vscode.until('one group', async () => (await vscode.page.locator('.editor-group-container').count()) === 1);
}

/** What was told in notifications, which are cleared. */
export async function told(vscode) {
  await vscode.toasts.first().waitFor();
  await vscode.wait(1000); // for a second one
  const texts = await vscode.toasts.allTextContents();
  await vscode.command('Notifications: Clear All Notifications');
  await vscode.until('no notification', async () => (await vscode.toasts.count()) === 0);
  return texts;
}

export async function quiet(vscode) {
  await vscode.noToast();
}

/** A second window beside the first: both show ghost text. */
export async function secondWindow(vscode, { folder, file, line, type, says }, another) {
  const second = await another();
  try {
    await open(second, { folder, file });
    await ghost(second, { line, type, says });
    await vscode.page.bringToFront();
    await ghost(vscode, { line, type, says });
  } finally {
    await second.page.close({ runBeforeUnload: true });
  }
}

async function shoot(vscode, name, height = 260) {
  if (name) {
    await vscode.wait(500);
    await vscode.shot(name, height);
  }
}
