// node client.js push|pull URL DOCUMENTS: replicate once between a database in memory and a
// server, when a line comes on standard input. Says "ready" before, and afterwards how many
// documents were written.
const fs = require('fs');
const PouchDB = require('pouchdb').plugin(require('pouchdb-adapter-memory'));

async function main([direction, url, file]) {
  const local = new PouchDB('client', { adapter: 'memory' });
  const remote = new PouchDB(url);
  if (direction === 'push') await local.bulkDocs(JSON.parse(fs.readFileSync(file)));
  console.log('ready');
  await new Promise((resolve) => process.stdin.once('data', resolve));
  const result = await (direction === 'push' ? local.replicate.to(remote) : local.replicate.from(remote));
  console.log(result.docs_written);
  process.exit(0);
}

main(process.argv.slice(2));
