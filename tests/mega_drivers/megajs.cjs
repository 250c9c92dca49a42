// megajs as a process: lines of JSON in, one line of JSON out for each, as mega_py.py beside it.
//
// "seen" lists the tree of a session that follows the events; every other operation reads the tree anew, as a
// second reload of one megajs session would apply each event twice.

"use strict";

const fs = require("fs");
const { pipeline } = require("stream/promises");
const readline = require("readline");
const { Storage } = require(process.argv[2]);

let following;

async function fresh() {
  const session = JSON.parse(JSON.stringify(following.toJSON()));
  session.options.keepalive = false;
  const storage = Storage.fromJSON(session);
  await storage.reload(true);
  return storage;
}

function find(storage, path) {
  let node = storage.root;
  for (const name of path.split("/").filter(Boolean)) {
    node = node.children.find((child) => child.name === name);
    if (!node) throw Error(`no ${path}`);
  }
  return node;
}

function split(path) {
  const at = path.lastIndexOf("/");
  return [path.slice(0, Math.max(at, 0)), path.slice(at + 1)];
}

function entries(folder, prefix) {
  return folder.children.flatMap((node) => [
    {
      path: prefix + node.name,
      folder: node.directory,
      size: node.size,
      time: node.timestamp,
      fingerprint: node.attributes.c === undefined ? null : node.attributes.c,
    },
    ...(node.directory ? entries(node, `${prefix}${node.name}/`) : []),
  ]);
}

const operations = {
  async login(url, email, password) {
    following = new Storage({ email, password, gateway: `${url}/`, keepalive: true });
    await following.ready;
  },
  async list() {
    return entries((await fresh()).root, "");
  },
  async seen() {
    return entries(following.root, "");
  },
  async upload(source, path) {
    const [folder, name] = split(path);
    const target = find(await fresh(), folder);
    await target.upload({ name, size: fs.statSync(source).size }, fs.readFileSync(source)).complete;
  },
  async download(path, target) {
    await pipeline(find(await fresh(), path).download(), fs.createWriteStream(target));
  },
  async mkdir(path) {
    const [folder, name] = split(path);
    await find(await fresh(), folder).mkdir(name);
  },
  async rename(path, name) {
    await find(await fresh(), path).rename(name);
  },
  async move(path, folder) {
    const storage = await fresh();
    await find(storage, path).moveTo(find(storage, folder));
  },
  async remove(path) {
    await find(await fresh(), path).delete();
  },
};

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [operation, ...given] = JSON.parse(line);
    let answer;
    try {
      answer = { result: (await operations[operation](...given)) ?? null };
    } catch (error) {
      answer = { error: String(error) };
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
  }
  process.exit(0); // the event channel would keep it alive
}

main();
