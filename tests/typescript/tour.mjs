// Calls every served endpoint once with the official TypeScript client, as a program of a user would.
// Reads BASE_URL, API_KEY and ENVIRONMENT_KEY_PATH; prints one line of JSON for each call: {"method", "error"?}.
import assert from 'node:assert/strict';
import Anthropic, { toFile } from '@anthropic-ai/sdk';

const baseURL = process.env.BASE_URL;
const apiKey = process.env.API_KEY;
const client = new Anthropic({ baseURL, apiKey, maxRetries: 0 });
const beta = client.beta;
const until = AbortSignal.timeout(90_000);

async function step(method, call) {
  try {
    const value = await call();
    console.log(JSON.stringify({ method }));
    return value;
  } catch (error) {
    console.log(JSON.stringify({ method, error: `${error.stack ?? error}` }));
    process.exit(1);
  }
}

async function all(page) {
  const found = [];
  for await (const item of page) found.push(item);
  return found;
}

function has(items, id) {
  assert.ok(items.some((item) => item.id === id), `${id} is not in the list`);
}

// -- models, agents, environments

const models = await step('models.list', () => all(beta.models.list()));
await step('models.retrieve', async () => assert.equal((await beta.models.retrieve(models[0].id)).id, models[0].id));

const model = 'claude-opus-5-5';
const toolset = { type: 'agent_toolset_20260401' };
const agent = await step('agents.create', () => beta.agents.create({ name: 'Tour', model, tools: [toolset] }));
await step('agents.retrieve', async () => assert.equal((await beta.agents.retrieve(agent.id)).version, 1));
await step('agents.update', async () => {
  assert.equal((await beta.agents.update(agent.id, { version: 1, description: 'changed' })).version, 2);
});
await step('agents.list', async () => has(await all(beta.agents.list({ limit: 1 })), agent.id));
await step('agents.versions.list', async () => assert.equal((await all(beta.agents.versions.list(agent.id))).length, 2));

const environment = await step('environments.create', () =>
  beta.environments.create({
    name: 'tour',
    config: { type: 'cloud', networking: { type: 'limited', allowed_hosts: [] } },
  }),
);
await step('environments.retrieve', () => beta.environments.retrieve(environment.id));
await step('environments.update', async () => {
  assert.equal((await beta.environments.update(environment.id, { description: 'x' })).description, 'x');
});
await step('environments.list', async () => has(await all(beta.environments.list()), environment.id));

// -- files, skills, memory, vaults

const file = await step('files.upload', async () =>
  beta.files.upload({ file: await toFile(Buffer.from('forty-two\n'), 'number.txt', { type: 'text/plain' }) }),
);
await step('files.list', async () => has(await all(beta.files.list()), file.id));
await step('files.retrieve_metadata', async () => {
  assert.equal((await beta.files.retrieveMetadata(file.id)).size_bytes, 10);
});

const skillText = (words) => `---\nname: tour-skill\ndescription: ${words}\n---\nSay hello.\n`;
const skillFile = (words) => toFile(Buffer.from(skillText(words)), 'tour-skill/SKILL.md');
const skill = await step('skills.create', async () => beta.skills.create({ files: [await skillFile('Greets.')] }));
await step('skills.retrieve', () => beta.skills.retrieve(skill.id));
await step('skills.list', async () => has(await all(beta.skills.list()), skill.id));
const second = await step('skills.versions.create', async () =>
  beta.skills.versions.create(skill.id, { files: [await skillFile('Greets well.')] }),
);
await step('skills.versions.list', async () => assert.equal((await all(beta.skills.versions.list(skill.id))).length, 2));
await step('skills.versions.retrieve', async () => {
  assert.equal((await beta.skills.versions.retrieve('latest', { skill_id: skill.id })).id, second.id);
});
await step('skills.versions.download', async () => {
  const bytes = await (await beta.skills.versions.download(second.id, { skill_id: skill.id })).arrayBuffer();
  assert.equal(Buffer.from(bytes).subarray(0, 2).toString(), 'PK');
});

const store = await step('memory_stores.create', () => beta.memoryStores.create({ name: 'Tour notes' }));
await step('memory_stores.retrieve', () => beta.memoryStores.retrieve(store.id));
await step('memory_stores.update', () => beta.memoryStores.update(store.id, { description: 'x' }));
await step('memory_stores.list', async () => has(await all(beta.memoryStores.list()), store.id));
const memory = await step('memory_stores.memories.create', () =>
  beta.memoryStores.memories.create(store.id, { path: '/a.md', content: 'one' }),
);
await step('memory_stores.memories.update', () =>
  beta.memoryStores.memories.update(memory.id, {
    memory_store_id: store.id,
    content: 'two',
    precondition: { type: 'content_sha256', content_sha256: memory.content_sha256 },
  }),
);
await step('memory_stores.memories.retrieve', async () => {
  const found = await beta.memoryStores.memories.retrieve(memory.id, { memory_store_id: store.id, view: 'full' });
  assert.equal(found.content, 'two');
});
await step('memory_stores.memories.list', async () => has(await all(beta.memoryStores.memories.list(store.id)), memory.id));
const versions = await step('memory_stores.memory_versions.list', () =>
  all(beta.memoryStores.memoryVersions.list(store.id, { memory_id: memory.id })),
);
assert.equal(versions.length, 2);
await step('memory_stores.memory_versions.retrieve', () =>
  beta.memoryStores.memoryVersions.retrieve(versions[1].id, { memory_store_id: store.id }),
);
await step('memory_stores.memory_versions.redact', () =>
  beta.memoryStores.memoryVersions.redact(versions[1].id, { memory_store_id: store.id }),
);

const vault = await step('vaults.create', () => beta.vaults.create({ display_name: 'Tour' }));
await step('vaults.retrieve', () => beta.vaults.retrieve(vault.id));
await step('vaults.update', () => beta.vaults.update(vault.id, { metadata: { k: 'v' } }));
await step('vaults.list', async () => has(await all(beta.vaults.list()), vault.id));
const credential = await step('vaults.credentials.create', () =>
  beta.vaults.credentials.create(vault.id, {
    auth: { type: 'mcp_oauth', mcp_server_url: 'https://mcp.example.com/', access_token: 'canary-token' },
  }),
);
const inVault = { vault_id: vault.id };
await step('vaults.credentials.retrieve', async () => {
  assert.ok(!JSON.stringify(await beta.vaults.credentials.retrieve(credential.id, inVault)).includes('canary'));
});
await step('vaults.credentials.update', () =>
  beta.vaults.credentials.update(credential.id, { ...inVault, display_name: 'x' }),
);
await step('vaults.credentials.list', async () => has(await all(beta.vaults.credentials.list(vault.id)), credential.id));
await step('vaults.credentials.mcp_oauth_validate', () => beta.vaults.credentials.mcpOAuthValidate(credential.id, inVault));

// -- sessions

const session = await step('sessions.create', () =>
  beta.sessions.create({
    agent: agent.id,
    environment_id: environment.id,
    title: 'Tour',
    resources: [
      { type: 'file', file_id: file.id },
      { type: 'memory_store', memory_store_id: store.id },
    ],
  }),
);
await step('sessions.retrieve', () => beta.sessions.retrieve(session.id));
await step('sessions.update', async () => {
  assert.equal((await beta.sessions.update(session.id, { title: 'Renamed' })).title, 'Renamed');
});
await step('sessions.list', async () => has(await all(beta.sessions.list({ agent_id: agent.id })), session.id));
const resources = await step('sessions.resources.list', () => all(beta.sessions.resources.list(session.id)));
const inSession = { session_id: session.id };
await step('sessions.resources.retrieve', () => beta.sessions.resources.retrieve(resources[0].id, inSession));
const added = await step('sessions.resources.add', () =>
  beta.sessions.resources.add(session.id, { type: 'file', file_id: file.id, mount_path: '/workspace/number.txt' }),
);

const command = 'cat /workspace/number.txt; cp /workspace/number.txt /mnt/session/outputs/copy.txt';
const steps = [{ content: [{ type: 'tool_use', name: 'bash', input: { command } }] }, 'Done.'];
const script = '```rehearse\n' + JSON.stringify(steps) + '\n```';
const stream = await step('sessions.events.stream', () =>
  beta.sessions.events.stream(session.id, { event_deltas: ['agent.message'] }, { signal: until }),
);
await step('sessions.events.send', () =>
  beta.sessions.events.send(session.id, {
    events: [{ type: 'user.message', content: [{ type: 'text', text: `Go on.\n${script}` }] }],
  }),
);
const seen = [];
for await (const event of stream) {
  seen.push(event);
  if (event.type === 'session.status_idle') break;
}
await step('sessions.events.list', async () => {
  const listed = await all(beta.sessions.events.list(session.id));
  const result = listed.find((event) => event.type === 'agent.tool_result');
  assert.ok(JSON.stringify(result).includes('forty-two'), JSON.stringify(listed, null, 1));
  assert.equal(listed.at(-1).type, 'session.status_idle');
  const ids = new Set(listed.map((event) => event.id));
  for (const event of seen) assert.ok(event.id === undefined || ids.has(event.id), event.type);
});
const threads = await step('sessions.threads.list', () => all(beta.sessions.threads.list(session.id)));
await step('sessions.threads.retrieve', () => beta.sessions.threads.retrieve(threads[0].id, inSession));
await step('sessions.threads.events.list', async () => {
  assert.ok((await all(beta.sessions.threads.events.list(threads[0].id, inSession))).length >= seen.length / 2);
});
await step('sessions.threads.events.stream', async () => {
  (await beta.sessions.threads.events.stream(threads[0].id, inSession)).controller.abort();
});
await step('sessions.threads.archive', () =>
  assert.rejects(beta.sessions.threads.archive(threads[0].id, inSession), Anthropic.BadRequestError),
);
await step('files.download', async () => {
  let outputs = [];
  while (outputs.length === 0) {
    until.throwIfAborted();
    outputs = await all(beta.files.list({ scope_id: session.id }));
    outputs = outputs.filter((output) => output.filename === 'copy.txt');
  }
  assert.equal(await (await beta.files.download(outputs[0].id)).text(), 'forty-two\n');
});
await step('sessions.resources.update', () =>
  assert.rejects(
    beta.sessions.resources.update(added.id, { ...inSession, authorization_token: 'x' }),
    Anthropic.BadRequestError,
  ),
);
await step('sessions.resources.delete', () => beta.sessions.resources.delete(added.id, inSession));
await step('sessions.archive', async () => assert.equal((await beta.sessions.archive(session.id)).status, 'terminated'));
await step('sessions.delete', () => beta.sessions.delete(session.id));

// -- the queue of a self-hosted environment

const hosted = await beta.environments.create({ name: 'tour hosted', config: { type: 'self_hosted' } });
const made = await client.post(process.env.ENVIRONMENT_KEY_PATH.replace('{id}', hosted.id), { body: { name: 'tour' } });
const worker = new Anthropic({ baseURL, apiKey: made.secret ?? made.key, maxRetries: 0 }).beta.environments.work;
const inHosted = { environment_id: hosted.id };
await step('environments.work.poll', async () => assert.equal(await worker.poll(hosted.id), null));
const waiting = await beta.sessions.create({
  agent: agent.id,
  environment_id: hosted.id,
  initial_events: [{ type: 'user.message', content: [{ type: 'text', text: 'Hello.' }] }],
});
let item = null;
while (item === null) {
  until.throwIfAborted();
  item = await worker.poll(hosted.id, { block_ms: 500 });
}
assert.equal(item.data.id, waiting.id);
await step('environments.work.ack', () => worker.ack(item.id, inHosted));
await step('environments.work.heartbeat', async () => {
  const beat = await worker.heartbeat(item.id, { ...inHosted, expected_last_heartbeat: 'NO_HEARTBEAT' });
  assert.equal(beat.state, 'active');
});
await step('environments.work.list', async () => has(await all(worker.list(hosted.id)), item.id));
await step('environments.work.retrieve', () => beta.environments.work.retrieve(item.id, inHosted));
await step('environments.work.update', () => beta.environments.work.update(item.id, { ...inHosted, metadata: { k: 'v' } }));
await step('environments.work.stats', () => beta.environments.work.stats(hosted.id));
await step('environments.work.stop', () => worker.stop(item.id, { ...inHosted, force: true }));

// -- the end of things

await step('vaults.credentials.archive', () => beta.vaults.credentials.archive(credential.id, inVault));
await step('vaults.credentials.delete', () => beta.vaults.credentials.delete(credential.id, inVault));
await step('vaults.archive', () => beta.vaults.archive(vault.id));
await step('vaults.delete', () => beta.vaults.delete(vault.id));
await step('memory_stores.memories.delete', () =>
  beta.memoryStores.memories.delete(memory.id, { memory_store_id: store.id }),
);
await step('memory_stores.archive', () => beta.memoryStores.archive(store.id));
await step('memory_stores.delete', () => beta.memoryStores.delete(store.id));
await step('skills.versions.delete', async () => {
  const [newest, oldest] = await all(beta.skills.versions.list(skill.id));
  assert.equal(newest.id, second.id);
  await beta.skills.versions.delete(oldest.id, { skill_id: skill.id });
});
await step('skills.delete', () => beta.skills.delete(skill.id));
await step('files.delete', () => beta.files.delete(file.id));
await step('environments.archive', () => beta.environments.archive(environment.id));
const empty = await beta.environments.create({ name: 'tour empty' });
await step('environments.delete', () => beta.environments.delete(empty.id));
await step('agents.archive', async () => assert.ok((await beta.agents.archive(agent.id)).archived_at));
