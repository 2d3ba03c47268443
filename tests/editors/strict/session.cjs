// A hard session with the server over vscode-jsonrpc; writes what came of it as JSON.
// JSONRPC is the library's folder, COMMAND the server's as JSON, SCRIPT its script, WAY how it is reached: stdio, pipe
// (this end listens) or a port.
"use strict";
const { spawn } = require("node:child_process");
const fs = require("node:fs");
const net = require("node:net");
const { Writable } = require("node:stream");
const rpc = require(`${process.env.JSONRPC}/lib/node/main.js`);

const problems = [], answers = {}, outcomes = {}, codes = {};
const counts = { progress: 0, applied: 0, status: [] };
const problem = (what) => problems.push(String(what).slice(0, 300));
const says = (script) => {
  fs.writeFileSync(`${process.env.SCRIPT}.new`, JSON.stringify(script));
  fs.renameSync(`${process.env.SCRIPT}.new`, process.env.SCRIPT);
};

// Every message goes out in pieces, each by itself.
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
  const [program, ...rest] = JSON.parse(process.env.COMMAND), way = process.env.WAY;
  const options = { stdio: ["pipe", "pipe", "ignore"] };
  if (way === "stdio") {
    const child = spawn(program, rest, options);
    return [new rpc.StreamMessageReader(child.stdout), new rpc.StreamMessageWriter(new Pieces(child.stdin)), child];
  }
  if (way === "pipe") {
    const name = `${process.env.SCRIPT}.pipe`;
    const transport = await rpc.createClientPipeTransport(name);
    const child = spawn(program, [...rest, `--pipe=${name}`], options);
    return [...await transport.onConnected(), child];
  }
  const socket = net.connect(Number(way), "127.0.0.1");
  await new Promise((resolve) => socket.once("connect", resolve));
  return [new rpc.SocketMessageReader(socket), new rpc.StreamMessageWriter(new Pieces(socket)), null];
}

async function main() {
  says({ complete: "'ü😀' + wert" });
  const [reader, writer, child] = await streams();
  const logger = Object.fromEntries(["error", "warn", "info", "log"].map((kind) => [kind, (text) => problem(text)]));
  // Counted as they are read: the connection's queue makes one of two answers with one id.
  const listen = reader.listen.bind(reader);
  reader.listen = (take) => listen((message) => {
    if (!("method" in message)) answers[message.id] = (answers[message.id] ?? 0) + 1;
    take(message);
  });
  const connection = rpc.createMessageConnection(reader, writer, logger);
  connection.onError(([error]) => problem(`error: ${error}`));
  connection.onUnhandledNotification((message) => problem(`unhandled: ${message.method}`));
  reader.onPartialMessage((info) => problem(`stuck in a message: ${JSON.stringify(info)}`));
  const closed = new Promise((resolve) => connection.onClose(resolve));
  const ended = child && new Promise((resolve) => child.once("exit", resolve));
  connection.onRequest("window/workDoneProgress/create", () => null);
  connection.onRequest("workspace/applyEdit", () => { counts.applied += 1; return { applied: true }; });
  connection.onNotification("$/progress", () => { counts.progress += 1; });
  connection.onNotification("window/showMessage", (params) => problem(`said: ${params.message}`));
  let ready;
  const isReady = new Promise((resolve) => { ready = resolve; });
  connection.onNotification("codeclippy/status", ({ state }) => { counts.status.push(state); if (state === "ready") ready(); });
  connection.trace(rpc.Trace.Verbose, { log() {} });
  connection.listen();

  let sent = 0;
  const ask = (kind, method, params, token) => {
    sent += 1;
    return connection.sendRequest(method, params, ...(token ? [token] : [])).then(
      (result) => { (outcomes[kind] ??= []).push("result"); return result; },
      (error) => { (outcomes[kind] ??= []).push(error.code); return error; });
  };
  const capabilities = { window: { workDoneProgress: true }, workspace: { applyEdit: true } };
  await ask("plain", "initialize", { processId: process.pid, rootUri: null, capabilities,
    initializationOptions: { statusNotification: true, completion: { prefetch: false } } });
  connection.sendNotification("initialized", {});
  await isReady;
  const uri = "file:///ü😀.py", text = "# 日本😀\ud800\na = 1\nx = ";
  const open = (name, body) => connection.sendNotification("textDocument/didOpen", {
    textDocument: { uri: name, languageId: "python", version: 1, text: body } });
  open(uri, text);
  const textDocument = { uri }, position = { line: 2, character: 4 };
  const list = await ask("plain", "textDocument/completion", { textDocument, position });
  outcomes.text = list.items[0].textEdit.newText;

  // Many at a time, of all kinds.
  const many = [];
  for (let n = 0; n < 40; n += 1) {
    const name = `file:///${n}😀.py`;
    open(name, text);
    const place = { textDocument: { uri: name }, position };
    many.push(ask("plain", "textDocument/completion", place));
    many.push(ask("plain", "textDocument/codeAction", { textDocument, context: { diagnostics: [] },
      range: { start: position, end: position } }));
    many.push(ask("unknown", "nobody/knows", { n }));
    many.push(ask("params", "textDocument/completion", { textDocument: n }));
  }
  await Promise.all(many);
  many.length = 0;

  // Cancelled at once, twice, later, after the answer, and what never was.
  says({ complete: "x", delay: 0.2 });
  for (let n = 0; n < 40; n += 1) {
    const source = new rpc.CancellationTokenSource();
    const place = { textDocument: { uri: `file:///${n}😀.py` }, position: { line: 0, character: 2 } };
    many.push(ask("cancelled", "textDocument/completion", place, source.token));
    const cancel = () => source.cancel();
    if (n % 2) cancel(); else setTimeout(cancel, n);
    for (const id of [sent - 1, 100000 + n, `${n}`]) connection.sendNotification("$/cancelRequest", { id });
  }
  await Promise.all(many);
  for (let id = 0; id < sent; id += 1) connection.sendNotification("$/cancelRequest", { id });

  // Large, both ways.
  const large = await ask("unknown", "😀".repeat(500000), {});
  if (!large.message.includes("😀".repeat(1000)) || large.message.includes("\ufffd")) problem("the large answer");

  // An edit with thousands of notifications before it.
  says({ fault: "flood", edit: process.env.HUNKS });
  await ask("plain", "workspace/executeCommand", { command: "codeclippy.edit", arguments: [{ uri, message: "Go" }] });
  for (const end = Date.now() + 30000; !counts.applied && Date.now() < end;) await new Promise((go) => setTimeout(go, 10));
  says({ complete: "y" });
  await ask("plain", "textDocument/completion", { textDocument, position });
  await ask("plain", "shutdown");
  connection.sendNotification("exit");
  if (ended) codes.exit = await ended;
  await closed;
  const twice = Object.entries(answers).filter(([, count]) => count !== 1);
  console.log(JSON.stringify({ sent, answered: Object.keys(answers).length, twice, outcomes, counts, problems, codes }));
}

process.on("unhandledRejection", (error) => { console.log(JSON.stringify({ problems: [String(error)] })); process.exit(1); });
main();
