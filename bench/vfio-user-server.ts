import { rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { isMainThread, Worker } from 'node:worker_threads';
import { GuestMemory } from '../src/memory/guest-memory.ts';
import { VtdIommu } from '../src/target/vtd/index.ts';
import { countedRegisters, vtdFunction } from '../src/vmm/units/index.ts';
import { PciVfioDevice, VfioUserServer } from '../src/vmm/vfio-user/index.ts';

/*
 * The other side of rows/vfio-user.ts: a VT-d unit's registers on a socket, until the client is gone. PATH TRANSPORT PLACE LOAD: `worker` has the
 * server in a thread of its own, `busy` has the process's main loop work half of the time.
 */

const [path = '', transport, place, load] = process.argv.slice(2);
const BUSY_MILLISECONDS = 5;

/** Node 20 does not give a worker its parent's loader of TypeScript. */
const inWorker = `import('tsx/esm/api').then(({ register }) => { register(); return import(${JSON.stringify(import.meta.url)}); })`;

async function serve(): Promise<void> {
  const memory = new GuestMemory([]);
  const iommu = new VtdIommu({}, { memory });
  const device = new PciVfioDevice(vtdFunction(iommu, countedRegisters(iommu, { reads: 0, writes: 0 })), { disconnected: end });
  await VfioUserServer.listen({ path, device, memory, transport: transport === 'net' ? 'net' : 'native' });
}

function end(): void {
  rmSync(dirname(path), { recursive: true, force: true });
  if (isMainThread) process.exit();
  else process.kill(process.pid, 'SIGKILL');
}

function work(): void {
  const until = performance.now() + BUSY_MILLISECONDS;
  while (performance.now() < until);
  setTimeout(work, BUSY_MILLISECONDS);
}

if (!isMainThread) await serve();
else {
  process.on('SIGTERM', end);
  if (place === 'worker') new Worker(inWorker, { eval: true, argv: process.argv.slice(2) });
  else await serve();
  if (load === 'busy') work();
}
