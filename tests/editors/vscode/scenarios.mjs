// The actions of the tests in the workbench, one function each; the tests provide the texts.

/** Open a file in a new window, and wait until the server is ready. */
export async function open(vscode, { folder, file }) {
  await vscode.open(folder, file);
  await vscode.waitUntilReady();
}

/** Open a file in the current window, and wait until the server is ready. */
export async function openInSameWindow(vscode, { file }) {
  await vscode.openInSameWindow(file);
  await vscode.waitUntilReady();
}

/** Open a file in a new window, and wait for a status; if it is silent, no notification is shown. */
export async function openAndWaitForStatus(vscode, { folder, file, status, isSilent }) {
  await vscode.open(folder, file);
  await vscode.waitForStatus(status);
  if (isSilent) {
    await vscode.wait(1000);
    await vscode.assertNoNotification();
  }
}

/** Open a file in a new window of a new profile, and wait for the walkthrough, which has buttons. */
export async function openFirst(vscode, { folder, file, shot }) {
  await vscode.open(folder, file);
  const walkthrough = vscode.page.locator('.gettingStartedContainer');
  await walkthrough.getByText('Install the server').first().waitFor();
  await walkthrough.getByRole('button', { name: 'Install Server' }).first().waitFor();
  await vscode.toasts.first().waitFor();
  await vscode.wait(1500);
  await vscode.takeScreenshot(shot);
  await vscode.page.locator('.tab', { hasText: file.split('/').pop() }).first().click();
  await vscode.focus();
}

/** Ask for an edit without a server: no box for a message opens. */
export async function refuseMessage(vscode, { shot }) {
  await vscode.keyboard.press('Control+Alt+E');
  await vscode.wait(1500);
  if (await vscode.input.isVisible()) {
    throw new Error('the box for a message is open');
  }
  await vscode.takeScreenshot(shot);
}

export async function pressNotificationButton(vscode, { text, button }) {
  const toast = vscode.toasts.filter({ hasText: text }).first();
  await toast.getByText(button, { exact: true }).first().click();
}

/** Type at the end of the file; the lines have no indentation but the typed one. */
export async function typeAtEnd(vscode, { text }) {
  await vscode.keyboard.press('Control+End');
  const lines = text.split('\n');
  for (const [number, line] of lines.entries()) {
    if (number > 0) {
      await vscode.keyboard.press('Enter');
      await vscode.keyboard.press('Shift+Home'); // without the editor's own indentation
      await vscode.keyboard.press('Shift+Home');
      await vscode.keyboard.press('Delete');
    }
    await vscode.type(line);
  }
}

export async function takeScreenshot(vscode, { shot }) {
  await vscode.takeScreenshot(shot);
}

export async function waitUntilReady(vscode) {
  await vscode.waitUntilReady();
}

/** Open a notebook in the current window. */
export async function openNotebook(vscode, { file }) {
  await vscode.openNotebook(file);
}

/** Type at the end of a cell, counted from 0, and wait for ghost text. */
export async function typeInCell(vscode, { cell, type, expected }) {
  await vscode.focusCell(cell);
  await vscode.type(type);
  await vscode.waitForGhostText(expected);
}

/** Edit the cell that has the cursor with a message. */
export async function editCell(vscode, { message }) {
  await vscode.runCommand('Code Clippy: Edit with Message');
  await vscode.submitMessage(message);
}

/** Save until the file on the disk has a text in it. */
export async function saveNotebookUntil(vscode, { text }) {
  await vscode.waitUntil(`${text} on the disk`, async () => (await vscode.save()).includes(text));
}

/** Type at the end of a line, and wait for ghost text; return it. */
export async function typeForGhostText(vscode, { line, type, expected = '', shot = '' }) {
  await vscode.goToLine(line);
  await vscode.type(type);
  await vscode.ghost.first().waitFor();
  await vscode.waitForGhostText(expected);
  await takePicture(vscode, shot);
  return vscode.getGhostText();
}

/** Type at the end of a line. */
export async function typeText(vscode, { line, type }) {
  await vscode.goToLine(line);
  await vscode.type(type);
}

/** Wait for ghost text without typing; return it. */
export async function waitForGhostText(vscode, { expected = '', shot = '', timeout = undefined } = {}) {
  await vscode.ghost.first().waitFor({ timeout });
  await vscode.waitForGhostText(expected);
  await takePicture(vscode, shot);
  return vscode.getGhostText();
}

/** Type the start of the ghost text, or nothing; wait until the rest of it is as expected. */
export async function typeThrough(vscode, { type = '', expected }) {
  await vscode.type(type);
  await vscode.waitUntil(`"${expected}" left`, async () => (await vscode.getGhostText()).trim() === expected);
}

/** Type and delete text, until no ghost text appears. */
export async function typeWithoutGhostText(vscode, { line, type }) {
  await vscode.goToLine(line);
  await vscode.waitUntil('typing without ghost text', async () => {
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

/** Type and delete text, until ghost text appears. */
export async function retypeForGhostText(vscode, { line, type, expected }) {
  await vscode.goToLine(line);
  await vscode.waitUntil('ghost text again', async () => {
    await vscode.type(type);
    await vscode.wait(1500);
    if ((await vscode.getGhostText()).includes(expected)) {
      return true;
    }
    await vscode.keyboard.press('Escape');
    for (const _ of type) {
      await vscode.keyboard.press('Backspace');
    }
    return false;
  });
}

export async function pressKeys(vscode, { keys }) {
  for (const key of keys) {
    await vscode.keyboard.press(key);
  }
}

export async function save(vscode) {
  await vscode.save();
}

export async function waitForFile(vscode, { text }) {
  await vscode.saveUntil(text);
}

/** Open the completion list by its key. */
export async function openCompletionList(vscode, { line, type, expected, shot = '' }) {
  await vscode.goToLine(line);
  await vscode.type(type);
  await vscode.ghost.first().waitFor();
  await vscode.keyboard.press('Escape');
  await vscode.keyboard.press('Control+Space');
  await vscode.menu.filter({ hasText: expected }).first().waitFor();
  await takePicture(vscode, shot);
}

export async function runCommand(vscode, { title }) {
  await vscode.runCommand(title);
}

/** Edit with a message: around a line, or the whole file; by the key or by the palette. */
export async function editWithMessage(vscode, { line, message, palette = false, all = false }) {
  await vscode.goToLine(line);
  if (all) {
    await vscode.keyboard.press('Control+A');
  }
  if (palette) {
    await vscode.runCommand('Code Clippy: Edit with Message');
  } else {
    await vscode.keyboard.press('Control+Alt+E');
  }
  await vscode.submitMessage(message);
}

/** Wait for the preview, whose changes are ticked, and open its diff. */
export async function waitForPreview(vscode, { row, shot = '', timeout = undefined }) {
  const changed = vscode.preview.locator('.monaco-list-row', { hasText: row }).last();
  await changed.waitFor({ timeout });
  await vscode.assertPreviewIsTicked();
  await changed.click();
  await vscode.page.locator('.monaco-diff-editor').first().waitFor();
  await vscode.wait(1000);
  await takePicture(vscode, shot, 650);
}

/** Press a button of the preview, Apply or Discard. */
export async function answerPreview(vscode, { button }) {
  await vscode.answerPreview(button);
}

/** Wait for the tab of a diff, and press a button of the question about it. */
export async function answerDiff(vscode, { tab, line, button, shot = '' }) {
  await vscode.page.locator('.tab', { hasText: tab }).first().waitFor();
  await vscode.page.locator('.view-line', { hasText: line }).first().waitFor();
  const toast = vscode.toasts.filter({ hasText: 'apply this edit' }).first();
  await toast.getByText(button, { exact: true }).first().waitFor();
  await takePicture(vscode, shot, 650);
  await toast.getByText(button, { exact: true }).first().click();
}

/** Wait until `count` tabs have a name with this text; return the names of all unsaved tabs. */
export async function waitForTabs(vscode, { name, count }) {
  const named = vscode.page.locator('.tab', { hasText: name });
  await vscode.waitUntil(`${count} tabs of ${name}`, async () => (await named.count()) === count);
  return vscode.page.locator('.tab.dirty').allTextContents();
}

/** Save all files until the last opened one has this text on disk. */
export async function saveAllUntil(vscode, { text }) {
  await vscode.waitUntil('the text', async () => {
    await vscode.runCommand('File: Save All');
    return vscode.readFile() === text;
  });
}

/** Undo once. */
export async function undo(vscode) {
  await vscode.focus();
  await vscode.keyboard.press('Control+Z');
}

/** Cancel the edit in progress by the palette; the status and the line say that it is being written. */
export async function cancelEdit(vscode, { title }) {
  await vscode.waitForStatus(title);
  await vscode.waitUntil('progress at the line', async () => (await vscode.getDecorations()).includes('writing'));
  await vscode.runCommand('Code Clippy: Cancel Edit');
  await vscode.waitForStatus('Code Clippy: ready');
}

export async function waitForStatus(vscode, { expected }) {
  await vscode.waitForStatus(expected);
}

/** Open the hover of the status item; return its text. */
export async function openStatusDetails(vscode, { shot = '' }) {
  const text = await vscode.openStatusDetails();
  await takePicture(vscode, shot, 670);
  return text;
}

/** Click a link in the hover of the status item. */
export async function followLink(vscode, { link }) {
  await vscode.details.getByText(link).click();
}

/** Pick a row of the open list. */
export async function pickRow(vscode, { row }) {
  await vscode.rows.filter({ hasText: row }).first().click();
}

/** Wait for a row of the open list; return the texts of all rows that are drawn. */
export async function listRows(vscode, { row, shot = '' }) {
  await vscode.rows.filter({ hasText: row }).first().waitFor();
  await takePicture(vscode, shot, 0);
  return vscode.rows.allTextContents();
}

/** Press the button of a row of the open list. */
export async function pressRowButton(vscode, { row }) {
  const found = vscode.rows.filter({ hasText: row }).first();
  await found.hover();
  await found.locator('.action-label').first().click();
}

export async function closeAll(vscode) {
  await vscode.runCommand('File: Save All');
  await vscode.waitUntil('all saved', async () => (await vscode.page.locator('.tab.dirty').count()) === 0);
  await vscode.runCommand('View: Close All Editors');
  await vscode.waitUntil('no editor', async () => (await vscode.page.locator('.tab').count()) === 0);
}

/** Type into the open input box, and press Enter. */
export async function submitInput(vscode, { text }) {
  await vscode.page.locator('.quick-input-message').filter({ hasText: 'Enter' }).waitFor();
  await vscode.input.fill(text);
  await vscode.keyboard.press('Enter');
}

/** Open the box for a message, return its rows, and close it. */
export async function listMessages(vscode) {
  await vscode.keyboard.press('Control+Alt+E');
  await vscode.page.locator('.quick-input-title', { hasText: 'Edit with Message' }).waitFor();
  await vscode.rows.first().waitFor();
  const rows = await vscode.rows.allTextContents();
  await vscode.keyboard.press('Escape');
  return rows;
}

/** Wait for a text anywhere in the window. */
export async function waitForTextOnPage(vscode, { text }) {
  await vscode.page.getByText(text).first().waitFor();
}

/** Wait for a text in the status bar. */
export async function waitForStatusBar(vscode, { expected }) {
  await vscode.page.locator('.part.statusbar', { hasText: expected }).waitFor();
}

/** Split the editor, and wait for the new group, which is active. */
export async function splitEditor(vscode) {
  await vscode.keyboard.press('Control+\\');
  await vscode.waitUntil('two groups', async () => (await vscode.page.locator('.editor-group-container').count()) === 2);
  await vscode.focus();
}

export async function joinGroups(vscode) {
  await vscode.runCommand('View: Join All Editor Groups');
  await vscode.waitUntil('one group', async () => (await vscode.page.locator('.editor-group-container').count()) === 1);
}

/** Wait for notifications; return their texts and clear them. */
export async function takeNotifications(vscode) {
  await vscode.toasts.first().waitFor();
  await vscode.wait(1000); // for a second one
  const texts = await vscode.toasts.allTextContents();
  await vscode.runCommand('Notifications: Clear All Notifications');
  await vscode.waitUntil('no notification', async () => (await vscode.toasts.count()) === 0);
  return texts;
}

export async function assertNoNotification(vscode) {
  await vscode.assertNoNotification();
}

/** Open a second window: both show ghost text. */
export async function useSecondWindow(vscode, { folder, file, line, type, expected }, openWorkbench) {
  const second = await openWorkbench();
  try {
    await open(second, { folder, file });
    await typeForGhostText(second, { line, type, expected });
    await vscode.page.bringToFront();
    await typeForGhostText(vscode, { line, type, expected });
  } finally {
    await second.page.close({ runBeforeUnload: true });
  }
}

async function takePicture(vscode, name, height = 260) {
  if (name) {
    await vscode.wait(500);
    await vscode.takeScreenshot(name, height);
  }
}

/** Ask for a suggestion at a place by key, wait until it has a text, and accept it. */
export async function askAt(vscode, { line, column, expected }) {
  await vscode.goToLine(line);
  await vscode.keyboard.press('Home');
  await vscode.keyboard.press('Home'); // before the indentation
  for (let at = 0; at < column; at++) {
    await vscode.keyboard.press('ArrowRight');
  }
  await vscode.keyboard.press('Alt+\\');
  await vscode.waitUntil(`ghost text "${expected}"`, async () => (await vscode.getGhostText()).includes(expected), 60_000);
  await vscode.keyboard.press('Tab');
  await vscode.waitUntil('accepted', async () => (await vscode.ghost.count()) === 0, 20_000);
}
