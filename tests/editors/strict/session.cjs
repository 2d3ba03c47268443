// A stress session with the server over vscode-jsonrpc; writes its results as JSON.
// JSONRPC is the library's folder, COMMAND the server's command as JSON, SCRIPT its script, TRANSPORT how to connect: stdio,
// pipe (this end listens) or a TCP port.
"use strict";
const { spawn } = require("node:child_process");
const fs = require("node:fs");
const net = require("node:net");
const { Writable } = require("node:stream");
const rpc = require(`${process.env.JSONRPC}/lib/node/main.js`);

const problems = [], answers = {}, outcomes = {}, codes = {};
const counts = { progress: 0, applied: 0, status: [] };
const reportProblem = (problem) => problems.push(String(problem).slice(0, 300));
const writeScript = (script) => {
  fs.writeFileSync(`${process.env.SCRIPT}.new`, JSON.stringify(script));
  fs.renameSync(`${process.env.SCRIPT}.new`, process.env.SCRIPT);
};

// Writes each message in pieces.
class Pieces extends Writable {
  constructor(below) { super(); this.below = below; }
  _write(chunk, encoding, done) {
    const size = Math.max(7, Math.ceil(chunk.length / 9));
    const next = (start) => {
      if (start >= chunk.length) return done();
      this.below.write(chunk.subarray(start, start + size), () => setImmediate(next, start + size));
    };
    next(0);
  }
}

async function streams() {
  const [program, ...rest] = JSON.parse(process.env.COMMAND), transport = process.env.TRANSPORT;
  const options = { stdio: ["pipe", "pipe", "ignore"] };
  if (transport === "stdio") {
    const child = spawn(program, rest, options);
    return [new rpc.StreamMessageReader(child.stdout), new rpc.StreamMessageWriter(new Pieces(child.stdin)), child];
  }
  if (transport === "pipe") {
    const name = `${process.env.SCRIPT}.pipe`;
    const pipe = await rpc.createClientPipeTransport(name);
    const child = spawn(program, [...rest, `--pipe=${name}`], options);
    return [...await pipe.onConnected(), child];
  }
  const socket = net.connect(Number(transport), "127.0.0.1");
  await new Promise((resolve) => socket.once("connect", resolve));
  return [new rpc.SocketMessageReader(socket), new rpc.StreamMessageWriter(new Pieces(socket)), null];
}

async function main() {
  writeScript({ complete: "'ü😀' + wert" });
  const [reader, writer, child] = await streams();
  const logger = Object.fromEntries(["error", "warn", "info", "log"].map((kind) => [kind, (text) => reportProblem(text)]));
  // Counted when read: the connection's queue merges two answers with the same id.
  const listen = reader.listen.bind(reader);
  reader.listen = (take) => listen((message) => {
    if (!("method" in message)) answers[message.id] = (answers[message.id] ?? 0) + 1;
    take(message);
  });
  const connection = rpc.createMessageConnection(reader, writer, logger);
  connection.onError(([error]) => reportProblem(`error: ${error}`));
  connection.onUnhandledNotification((message) => reportProblem(`unhandled: ${message.method}`));
  reader.onPartialMessage((info) => reportProblem(`stuck in a message: ${JSON.stringify(info)}`));
  const closed = new Promise((resolve) => connection.onClose(resolve));
  const ended = child && new Promise((resolve) => child.once("exit", resolve));
  connection.onRequest("window/workDoneProgress/create", () => null);
  connection.onRequest("workspace/applyEdit", () => { counts.applied += 1; return { applied: true }; });
  connection.onNotification("$/progress", () => { counts.progress += 1; });
  connection.onNotification("window/showMessage", (params) => reportProblem(`said: ${params.message}`));
  let ready;
  const whenReady = new Promise((resolve) => { ready = resolve; });
  connection.onNotification("codeclippy/status", ({ state }) => { counts.status.push(state); if (state === "ready") ready(); });
  connection.trace(rpc.Trace.Verbose, { log() {} });
  connection.listen();

  let sent = 0;
  const sendRequest = (kind, method, params, token) => {
    sent += 1;
    return connection.sendRequest(method, params, ...(token ? [token] : [])).then(
      (result) => { (outcomes[kind] ??= []).push("result"); return result; },
      (error) => { (outcomes[kind] ??= []).push(error.code); return error; });
  };
  const capabilities = { window: { workDoneProgress: true }, workspace: { applyEdit: true } };
  await sendRequest("plain", "initialize", { processId: process.pid, rootUri: null, capabilities,
    initializationOptions: { statusNotification: true, completion: { prefetch: false } } });
  connection.sendNotification("initialized", {});
  await whenReady;
  const uri = "file:///ü😀.py", text = "# 日本😀\ud800\na = 1\nx = ";
  const open = (name, body) => connection.sendNotification("textDocument/didOpen", {
    textDocument: { uri: name, languageId: "python", version: 1, text: body } });
  open(uri, text);
  const textDocument = { uri }, position = { line: 2, character: 4 };
  const list = await sendRequest("plain", "textDocument/completion", { textDocument, position });
  outcomes.text = list.items[0].textEdit.newText;

  // Many requests of all kinds at a time.
  const requests = [];
  for (let n = 0; n < 40; n += 1) {
    const name = `file:///${n}😀.py`;
    open(name, text);
    const params = { textDocument: { uri: name }, position };
    requests.push(sendRequest("plain", "textDocument/completion", params));
    requests.push(sendRequest("plain", "textDocument/codeAction", { textDocument, context: { diagnostics: [] },
      range: { start: position, end: position } }));
    requests.push(sendRequest("unknown", "nobody/knows", { n }));
    requests.push(sendRequest("params", "textDocument/completion", { textDocument: n }));
  }
  await Promise.all(requests);
  requests.length = 0;

  // Cancelled immediately, twice, later, after the answer, and with unknown ids.
  writeScript({ complete: "x", delay: 0.2 });
  for (let n = 0; n < 40; n += 1) {
    const source = new rpc.CancellationTokenSource();
    const params = { textDocument: { uri: `file:///${n}😀.py` }, position: { line: 0, character: 2 } };
    requests.push(sendRequest("cancelled", "textDocument/completion", params, source.token));
    const cancel = () => source.cancel();
    if (n % 2) cancel(); else setTimeout(cancel, n);
    for (const id of [sent - 1, 100000 + n, `${n}`]) connection.sendNotification("$/cancelRequest", { id });
  }
  await Promise.all(requests);
  for (let id = 0; id < sent; id += 1) connection.sendNotification("$/cancelRequest", { id });

  // A large request and a large answer.
  const large = await sendRequest("unknown", "😀".repeat(500000), {});
  if (!large.message.includes("😀".repeat(1000)) || large.message.includes("\ufffd")) reportProblem("the large answer is not as expected");

  // An edit after thousands of notifications.
  writeScript({ fault: "flood", edit: process.env.HUNKS });
  await sendRequest("plain", "workspace/executeCommand", { command: "codeclippy.edit", arguments: [{ uri, message: "Go" }] });
  for (const end = Date.now() + 30000; !counts.applied && Date.now() < end;) await new Promise((go) => setTimeout(go, 10));
  writeScript({ complete: "y" });
  await sendRequest("plain", "textDocument/completion", { textDocument, position });
  await sendRequest("plain", "shutdown");
  connection.sendNotification("exit");
  if (ended) codes.exit = await ended;
  await closed;
  const twice = Object.entries(answers).filter(([, count]) => count !== 1);
  console.log(JSON.stringify({ sent, answered: Object.keys(answers).length, twice, outcomes, counts, problems, codes }));
}

process.on("unhandledRejection", (error) => { console.log(JSON.stringify({ problems: [String(error)] })); process.exit(1); });
main();
