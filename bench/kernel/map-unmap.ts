/*
 * Maps and unmaps through the driver and koffi: node map-unmap.ts DEVICE_NODE BYTES COUNT prints nanoseconds per map and unmap in
 * the best of ten rounds, as map-unmap.c does: the best, because what else the machine does only ever adds.
 */
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import { openKernelPort } from '../../src/host/kernel/index.ts';
import { PAGE_BYTES, pfnOf, READ_WRITE } from '../../src/memory/index.ts';

const ROUNDS = 10;
const IOVA = 0x4000_0000 / PAGE_BYTES;

async function main(): Promise<void> {
  const [node, bytes, count] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
  const port = await openKernelPort();
  const host = new IommufdHost(port);
  const device = host.openDevice(node);
  const space = host.createSpace();
  if (space.attach(device) < 0) throw space.error;
  const memory = port.allocate(bytes);
  new Uint8Array(memory.buffer).fill(1);
  const first = pfnOf(memory.address);
  const pages = bytes / PAGE_BYTES;
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS; round++) {
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      if (space.map(IOVA, first, pages, READ_WRITE) < 0 || space.unmap(IOVA, pages) < 0) throw space.error;
    }
    best = Math.min(best, ((performance.now() - start) * 1e6) / count);
  }
  console.log(best.toFixed(1));
  host.close();
}

await main();
