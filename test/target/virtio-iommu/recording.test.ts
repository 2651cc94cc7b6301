import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { READ, WRITE } from '../../../src/memory/access.ts';
import { hiOf, joinHiLo, loOf } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import { S_OK } from '../../../src/target/virtio-iommu/spec/requests.ts';
import { VirtioIommu } from '../../../src/target/virtio-iommu/virtio-iommu.ts';

/*
 * What a stock Linux guest asked of QEMU 11.1's virtio-iommu (test/recordings/README.md): every request has the answer that it had
 * there, what an UNMAP removes is what it removed there, and every DMA lands where it landed there.
 */
const recording = fileURLToPath(new URL('../../recordings/virtio-iommu-linux-6.12.ndjson.gz', import.meta.url));

type Line = Record<string, string | number> & { op: string };

function readRecording(): Line[] {
  const text = gunzipSync(readFileSync(recording)).toString();
  return text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Line);
}

test('a recorded Linux guest: every answer and every DMA as on QEMU', () => {
  const lines = readRecording();
  const memory = GuestMemory.ofBytes(4096);
  const iommu = new VirtioIommu({ memory, inputRange: { start: 0n, last: 0x7f_ffff_ffffn }, iotlbCapacity: 64 });
  const msi = lines.filter(({ op }) => op === 'reserved');
  for (const { endpoint, start, end } of msi) {
    iommu.addEndpoint(Number(endpoint), [{ kind: 'msi', start: BigInt(start), last: BigInt(end) }]);
  }
  iommu.negotiate();
  const translate = (endpoint: number, iova: bigint, access: number) =>
    iommu.translate(endpoint, NO_PASID, hiOf(iova), loOf(iova), access) < 0 ? null : joinHiLo(iommu.translated[1], iommu.translated[0]);
  const checked = { requests: 0, xlate: 0, straight: 0, unmapped: 0 };
  const wrong: Line[] = [];
  const check = (line: Line, right: boolean, what: keyof typeof checked, count = 1) => {
    checked[what] += count;
    if (!right) wrong.push(line);
  };
  lines.forEach((line, i) => {
    const domain = Number(line['domain']);
    const endpoint = Number(line['endpoint']);
    const range = [BigInt(line['virtStart'] ?? 0), BigInt(line['virtEnd'] ?? 0)] as const;
    if (line.op === 'attach') check(line, iommu.attach(domain, endpoint) === S_OK, 'requests');
    else if (line.op === 'map') {
      check(line, iommu.map(domain, ...range, BigInt(line['physStart']), Number(line['flags'])) === S_OK, 'requests');
    } else if (line.op === 'unmap') {
      let removed = 0;
      while (lines[i + 1 + removed]?.op === 'unmapped') removed++;
      const before = iommu.counts.mappings;
      check(line, iommu.unmap(domain, ...range) === S_OK, 'requests');
      check(line, before - iommu.counts.mappings === removed, 'unmapped', removed);
    } else if (line.op === 'dma') {
      const iova = BigInt(line['iova']);
      const next = lines[i + 1];
      const translated = next?.op === 'xlate';
      const landed = translate(endpoint, iova, line['flag'] === 1 ? READ : WRITE);
      check(line, landed === (translated ? BigInt(next['addr']) : iova), translated ? 'xlate' : 'straight');
    }
  });
  expect(wrong).toEqual([]);
  expect(checked).toEqual({ requests: 4 + 5764 + 3153, xlate: 16_980, straight: 17_370 - 16_980, unmapped: 5754 });
});
