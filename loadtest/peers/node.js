// A reverse proxy on Node's cluster module: nothing but what comes with Node, kept connections to the
// upstream, streams passed on as they come.
//
//   node node.js PORT UPSTREAM_PORT WORKERS rr|shared
'use strict';

const cluster = require('node:cluster');
const http = require('node:http');

const [port, upstreamPort, workers] = process.argv.slice(2, 5).map(Number);
const HOUR = 3600 * 1000;

if (cluster.isPrimary) {
  // rr: the primary accepts and hands connections out in turn. shared: all workers accept from one socket.
  cluster.schedulingPolicy = process.argv[5] === 'rr' ? cluster.SCHED_RR : cluster.SCHED_NONE;
  // A worker that dies is replaced at once.
  let ending = false;
  cluster.on('exit', () => { if (!ending) cluster.fork(); });
  process.on('SIGTERM', () => {
    ending = true;
    for (const worker of Object.values(cluster.workers)) worker.kill();
    process.exit(0);
  });
  for (let n = 0; n < workers; n++) cluster.fork();
} else {
  // As many connections as requests in flight, each used again: the last one first, so that few are idle.
  const agent = new http.Agent({
    keepAlive: true, maxSockets: Infinity, maxFreeSockets: 4096, scheduling: 'lifo', noDelay: true,
  });

  const server = http.createServer((request, response) => {
    const headers = request.headers;
    delete headers.connection;
    const client = request.socket.remoteAddress;
    const before = headers['x-forwarded-for'];
    headers['x-forwarded-for'] = before ? `${before}, ${client}` : client;

    const onward = http.request(
      { agent, host: '127.0.0.1', port: upstreamPort, method: request.method, path: request.url, headers },
      (answer) => {
        delete answer.headers.connection;
        delete answer.headers['keep-alive'];
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
        answer.on('error', () => response.destroy());
      },
    );
    onward.on('error', () => {
      if (response.headersSent) return response.destroy();
      response.writeHead(502);
      response.end();
    });
    response.on('close', () => { if (!response.writableFinished) onward.destroy(); });

    // Most requests have no body: no stream has to be set up for those.
    if (headers['content-length'] || headers['transfer-encoding']) request.pipe(onward);
    else onward.end();
  });

  server.keepAliveTimeout = HOUR;
  server.headersTimeout = 0;
  server.requestTimeout = 0;
  server.listen({ host: '127.0.0.1', port, backlog: 4096 });
}
