import type { HostCalls } from '../../src/host/host.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { H_PUT_TCE_INDIRECT, HypercallRegisters, SpaprIommu } from '../../src/target/spapr/index.ts';
import { Machine } from '../../src/vmm/index.ts';
import { countingHost } from './counting-host.ts';

const LIST = 512;
/** No run is longer: so many bytes of RAM the guest's pages lead to, over and over. */
const RAM_BYTES = 2 ** 26;
const LIOBN = 0x8000_0000;
const ENDPOINT = 8;

/** A guest whose table is full, before a device comes to it. */
export interface FilledGuest {
  /** The device comes, and what its space needs is mapped, a slice each. */
  slices(): Generator<() => void>;
  /** What the host was asked for. */
  readonly calls: HostCalls;
  close(): void;
}

/**
 * A pseries guest whose table has `bytes` of pages, before a host that only counts. `scattered`: no page continues the one before it, so that
 * each is a mapping.
 */
export function filledGuest(bytes: number, pageLg2: number, scattered: boolean): FilledGuest {
  const pages = bytes / 2 ** pageLg2;
  const ramBytes = Math.max(RAM_BYTES, 2 * 2 ** pageLg2);
  const list = ramBytes;
  const memory = new GuestMemory([{ gpa: 0n, buffer: new SharedArrayBuffer(ramBytes + 4096), hostAddress: 1n << 40n }]);
  const window = { liobn: LIOBN, start: 0n, pageLg2, pages };
  const target = new SpaprIommu({ memory, bridges: [{ buid: 1n, endpoints: [ENDPOINT], windows: [window] }], tableBytes: 2 ** 33 });
  const registers = new HypercallRegisters();
  const r = registers.i32;
  const ramPages = ramBytes / 2 ** pageLg2;
  const step = scattered ? ramPages / 2 + 1 : 1;
  for (let first = 0; first < pages; first += LIST) {
    const count = Math.min(LIST, pages - first);
    for (let i = 0; i < count; i++) {
      const gpa = (((first + i) * step) % ramPages) * 2 ** pageLg2;
      memory.store64BE(Math.floor(list / 2 ** 32), (list + 8 * i) | 0, Math.floor(gpa / 2 ** 32), gpa | 3);
    }
    const ioba = first * 2 ** pageLg2;
    r[8] = LIOBN | 0;
    [r[10], r[11]] = [ioba | 0, Math.floor(ioba / 2 ** 32)];
    [r[12], r[13]] = [list | 0, Math.floor(list / 2 ** 32)];
    r[14] = count;
    if (target.hypercall(H_PUT_TCE_INDIRECT, registers) !== 0) throw new Error(`scale: the table of ${bytes} bytes is refused`);
  }
  const host = countingHost();
  const next: (() => void)[] = [];
  const machine = new Machine({ memory, target, host, path: 'shadow', schedule: (slice) => next.push(slice) });
  function* slices(): Generator<() => void> {
    yield () => void machine.passThrough(ENDPOINT, 'counted');
    for (let slice = next.pop(); slice !== undefined; slice = next.pop()) yield slice;
  }
  return { slices, calls: host.calls, close: () => machine.close() };
}
