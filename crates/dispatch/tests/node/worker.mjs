// A worker of @livekit/agents with the jobs of examples/livekit-worker: the metadata's "seconds" is
// how long one takes. It logs as that one does, except for the job's bytes: jobs come to it as
// plain objects. The environment is that one's, too.

import { appendFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { ServerOptions, cli, defineAgent } from '@livekit/agents';

const env = (name, otherwise) => process.env[name] || otherwise;

const log = (event, ctx, fields) => {
  const line = {
    event,
    at_ms: Date.now(),
    job: ctx.job.id,
    room: ctx.job.room.name,
    release: env('AGENT_RELEASE', ''),
    worker: env('AGENT_WORKER', ''),
    pid: process.pid,
    ...fields,
  };
  appendFileSync(process.env.AGENT_CALL_LOG, `${JSON.stringify(line)}\n`);
};

export default defineAgent({
  entry: async (ctx) => {
    const { seconds = 1 } = JSON.parse(ctx.job.metadata || '{}');
    log('job.started', ctx, { url: ctx.info.url, token: ctx.info.token });
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    log('job.ended', ctx, { how: 'finish', seconds });
    ctx.shutdown('finished');
  },
});

cli.runApp(
  new ServerOptions({
    agent: fileURLToPath(import.meta.url),
    agentName: env('AGENT_NAME', ''),
    loadFunc: async () => 0.1,
    numIdleProcesses: 1,
    host: '127.0.0.1',
    port: Number(env('AGENT_PORT', '18081')),
  }),
);
