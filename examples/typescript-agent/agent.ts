/**
 * An agent on a task queue of its own, in TypeScript. Nothing of Dalang is imported: NodeTask in, NodeResult out, as
 * docs/agents.md has them. Register it, then start it:
 *
 *   dalang agents register scribe --kind taskQueue --task-queue agents-typescript \
 *     --activity research --activity-heartbeat 10s --capability research
 *   npm install && TEMPORAL_ADDRESS=127.0.0.1:7233 npm start
 */
import { ApplicationFailure, Context } from '@temporalio/activity';
import { NativeConnection, Worker } from '@temporalio/worker';

/** What a node's activity is given. */
export interface NodeTask {
  runId: string;
  tenantId: string;
  nodeId: string;
  type: string;
  inputs: Record<string, unknown>;
  /** The same whenever this work is asked for again: an effect on the outside carries it. */
  key: string;
  startToCloseMs: number;
  attempt?: number;
  capabilities?: string[];
  metadata?: Record<string, unknown>;
}

/** What it answers. */
export interface NodeResult {
  outputs: Record<string, unknown>;
  usage?: { tokens?: number; cost?: number };
}

const BEAT_MS = 2_000;

export async function research(task: NodeTask): Promise<NodeResult> {
  const text = task.inputs.text;
  if (typeof text !== 'string') {
    // A type of docs/errors.md; nonRetryable: the same inputs will be as wrong again.
    throw ApplicationFailure.create({ type: 'VALIDATION_ERROR', message: 'text is no string', nonRetryable: true });
  }
  const context = Context.current();
  const end = Date.now() + 1_000 * Number(task.inputs.seconds ?? 0);
  while (Date.now() < end) {
    context.heartbeat({ message: 'reading' });
    await context.sleep(Math.min(BEAT_MS, end - Date.now())); // throws when the node is cancelled
  }
  const words = text.split(/\s+/).filter((word) => word.length > 0).length;
  return { outputs: { words, key: task.key, by: 'typescript' } };
}

async function main(): Promise<void> {
  const connection = await NativeConnection.connect({ address: process.env.TEMPORAL_ADDRESS ?? '127.0.0.1:7233' });
  const worker = await Worker.create({
    connection,
    namespace: process.env.TEMPORAL_NAMESPACE ?? 'default',
    taskQueue: process.env.TASK_QUEUE ?? 'agents-typescript',
    activities: { research },
  });
  console.log('ready');
  await worker.run();
}

main().catch((error: unknown) => {
  console.error(error);
  process.exit(1);
});
