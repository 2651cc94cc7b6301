import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { READ, WRITE } from '../../src/memory/access.ts';
import { joinHiLo } from '../../src/memory/address.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { NO_PASID } from '../../src/target/target.ts';
import { VirtioIommu, type VirtioIommuOptions } from '../../src/target/virtio-iommu/index.ts';
import { REQUEST_QUEUE } from '../../src/target/virtio-iommu/spec/features.ts';
import { arbitraryRequest, PAGES } from '../target/virtio-iommu/arbitrary.ts';
import { EP, featuresOf, MSI, OTHER, type RingKind, ringKinds } from '../target/virtio-iommu/fixture.ts';
import { attach, detach, map, probe, unmap } from '../target/virtio-iommu/requests.ts';
import { type Driver, PackedDriver, type Buffer as Request, SplitDriver, type Used } from '../virtqueue/driver.ts';
import type { DmaResult } from './testdev.ts';
import { type Answered, differences } from './virtio-differences.ts';
import { VirtioIommuPci } from './virtio-pci.ts';

/*
 * Our virtio-iommu against QEMU's: the same kicks through the same rings, with the same bytes around them; statuses, used lengths,
 * PROBE's properties, where DMA lands, and the fault reports compared.
 *
 * VIOMMU_PEER_ACCESSES: DMA reads and writes a ring format (default 1,200). VIOMMU_PEER_SEED: another set of programs.
 *
 * Not asked of QEMU 11.1: a property list shorter than probe_size, which ends it (an assertion), and buffers without room for
 * header or tail, on which it asks for a reset (5.13.6: "it returns the buffers without writing to them").
 */
const ACCESSES = Number(process.env['VIOMMU_PEER_ACCESSES'] ?? 1200);
const SEED = Number(process.env['VIOMMU_PEER_SEED'] ?? 1);

const RAM_BYTES = 0x80_0000;
const REQUESTS_AT = 0x40_0000;
const QUEUE_SIZE = 16;
/** Lies where a DMA is to write; no device of the peer ever reads it, so none has it to write. */
const SENTINEL = 0x5e47_14e1;

interface Dma {
  readonly endpoint: number;
  readonly iova: number;
  /** By the endpoint that can read. */
  readonly read: boolean;
}
interface Kick {
  readonly requests: readonly Request[];
  readonly dmas: readonly Dma[];
}

const odd: fc.Arbitrary<Request> = fc.constantFrom(
  { readable: Uint8Array.of(6, 0, 0, 0), writable: 4 },
  { readable: map(1, 0n, 0xfffn, 0n).readable.subarray(0, 35), writable: 4 },
  { readable: probe(EP).readable.subarray(0, 71), writable: 516 },
  { ...attach(1, EP), writable: 40 },
  attach(1, OTHER, 0, 5),
  detach(1, OTHER, 7),
  unmap(1, 0n, 0xfffn, 1),
  map(0, 0x1000n, 0x17ffn, 0x3000n),
  map(0, 0x1800n, 0x1fffn, 0x3000n),
  map(0, 0x1000n, 0x1fffn, 0x3800n),
  unmap(0, 0n, 2n ** 64n - 1n),
  map(0, 2n ** 63n, 2n ** 63n + 0xfffn, 0x5000n),
);
const request = fc.oneof(
  { weight: 25, arbitrary: arbitraryRequest({ physPages: 40, attachFlags: 1, mapFlags: 7 }) },
  { weight: 2, arbitrary: arbitraryRequest({ physPages: 40, attachFlags: 2, mapFlags: 8 }) },
  { weight: 1, arbitrary: odd },
);
const framed = fc
  .tuple(request, fc.constantFrom(undefined, undefined, 7, 20), fc.boolean())
  .map(([buffer, cut, indirect]) => ({ ...buffer, ...(cut && buffer.writable < 100 && indirect && { cut }), indirect }));
const dma = fc.record({
  endpoint: fc.constantFrom(EP, OTHER),
  iova: fc.nat(PAGES * 1024 + 511).map((word) => word * 4),
  read: fc.boolean(),
});
const kick: fc.Arbitrary<Kick> = fc.record({
  requests: fc.array(framed, { minLength: 1, maxLength: 3 }),
  dmas: fc.array(dma, { minLength: 1, maxLength: 4 }),
});
/** Most programs begin with both endpoints in a domain each. */
const begin: Kick = { requests: [attach(0, EP), attach(1, OTHER)], dmas: [] };
const program = fc
  .tuple(fc.boolean(), fc.constantFrom([begin], [begin], [begin], []), fc.array(kick, { minLength: 4, maxLength: 25 }))
  .map(([bypass, first, kicks]) => ({ bypass, kicks: [...first, ...kicks] }));

/** One side's guest memory and drivers; QEMU's is a copy of what lies in QEMU. */
class Side {
  readonly memory = GuestMemory.ofBytes(RAM_BYTES);
  readonly requests: Driver;
  readonly events: Driver;

  constructor(kind: RingKind) {
    const Ring = kind.packed ? PackedDriver : SplitDriver;
    this.requests = new Ring(this.memory, REQUESTS_AT, QUEUE_SIZE);
    this.events = new Ring(this.memory, REQUESTS_AT + this.requests.bytes, 8);
  }

  refillEvents(): void {
    while (this.events.waiting.length < 8) this.events.add({ readable: new Uint8Array(), writable: 24 });
  }
}

const statusOf = ({ written, bytes }: Used): [number, number] => [written === 0 ? -1 : bytes[written - 4], written];

/** A fault report without what the specification leaves to the device: which of READ and WRITE stand in `flags`, and the reason (see below). */
function faultOf({ written, bytes }: Used): string {
  const view = new DataView(bytes.buffer);
  return `${written} bytes, endpoint ${view.getUint32(8, true)}, 0x${view.getBigUint64(16, true).toString(16)}`;
}

/** What QEMU's configuration space says, for ours to say the same. */
type PeerOptions = Pick<Required<VirtioIommuOptions>, 'inputRange' | 'probeBytes'>;

/** A request and both answers, on one line; our domains before it. */
function describeAnswer({ request, before, ours, theirs }: Answered): string {
  const bytes = Buffer.from(request.readable).toString('hex');
  return `request ${bytes} +${request.writable}: [status, used length] ours ${ours}, theirs ${theirs}; domains ${JSON.stringify(before.domains)}`;
}

class Comparison {
  readonly counts = { programs: 0, requests: 0, dmas: 0, landed: 0, faults: 0 };
  readonly explained = new Map<string, number>();
  readonly unexplained: string[] = [];
  readonly #peer: VirtioIommuPci;
  readonly #kind: RingKind;
  readonly #features: bigint;
  readonly #options: PeerOptions;

  static async open(peer: VirtioIommuPci, kind: RingKind): Promise<Comparison> {
    const config = new DataView(Uint8Array.from(await peer.readConfig(40)).buffer);
    const inputRange = { start: config.getBigUint64(8, true), last: config.getBigUint64(16, true) };
    const options = { inputRange, probeBytes: config.getUint32(32, true) };
    expect(config.getBigUint64(0, true)).toBe(0xffff_ffff_ffff_f000n);
    const ours = new VirtioIommu({ memory: GuestMemory.ofBytes(4096), ...options });
    return new Comparison(peer, kind, options, featuresOf(ours, kind) & (await peer.offeredFeatures()));
  }

  private constructor(peer: VirtioIommuPci, kind: RingKind, options: PeerOptions, features: bigint) {
    this.#peer = peer;
    this.#kind = kind;
    this.#options = options;
    this.#features = features;
  }

  async run({ bypass, kicks }: { bypass: boolean; kicks: readonly Kick[] }): Promise<void> {
    this.counts.programs++;
    const [ours, theirs] = [new Side(this.#kind), new Side(this.#kind)];
    // QEMU 11.1 never sets the flag that says that something was written (2.8.4), and no driver minds.
    for (const driver of [theirs.requests, theirs.events]) if (driver instanceof PackedDriver) driver.trustsLength = true;
    const iommu = new VirtioIommu({ memory: ours.memory, bootBypass: true, ...this.#options });
    iommu.addEndpoint(EP, [MSI]);
    iommu.addEndpoint(OTHER, [MSI]);
    await this.#start(iommu, ours, theirs, bypass);
    for (const { requests, dmas } of kicks) {
      const ended = await this.#kick(iommu, ours, theirs, requests);
      if (ended) return;
      await this.#dmas(iommu, ours, theirs, dmas);
    }
  }

  async #start(iommu: VirtioIommu, ours: Side, theirs: Side, bypass: boolean): Promise<void> {
    const peer = this.#peer;
    iommu.negotiate(this.#features);
    peer.setStatus(0);
    peer.setStatus(3);
    peer.setFeatures(this.#features);
    peer.setStatus(11);
    [ours.requests, ours.events].forEach(({ setup }, index) => {
      expect(iommu.device.setQueue(index, setup)).toBe(true);
      peer.setQueue(index, setup);
    });
    iommu.device.status |= 4;
    await this.#push(theirs.requests);
    await this.#push(theirs.events);
    peer.setStatus(15);
    iommu.writeConfig(36, Uint8Array.of(Number(bypass)));
    peer.writeConfig(36, Number(bypass));
    expect(await peer.status()).toBe(iommu.device.status);
    // QEMU 11.1 keeps domains over a reset of the device (5.13.5: "endpoints are not attached to any domain"): empty them by hand.
    for (const endpoint of [EP, OTHER]) {
      for (const domain of [0, 1, 2]) {
        for (const { requests } of [ours, theirs]) requests.add(detach(domain, endpoint));
        iommu.notify(REQUEST_QUEUE);
        ours.requests.collect();
        await this.#push(theirs.requests);
        peer.notify(REQUEST_QUEUE);
        expect(await this.#pull(theirs.requests)).toHaveLength(1);
      }
    }
  }

  /** True: the program is over. */
  async #kick(iommu: VirtioIommu, ours: Side, theirs: Side, requests: readonly Request[]): Promise<boolean> {
    // One of ours at a time, so that each has its state before; QEMU gets them all at once.
    const answers: Pick<Answered, 'request' | 'before' | 'ours'>[] = [];
    const bytes: Uint8Array[] = [];
    for (const request of requests) {
      const before = iommu.save();
      ours.requests.add(request);
      iommu.notify(REQUEST_QUEUE);
      const [used] = ours.requests.collect();
      answers.push({ request, before, ours: statusOf(used) });
      bytes.push(used.bytes);
      theirs.requests.add(request);
    }
    await this.#push(theirs.requests);
    this.#peer.notify(REQUEST_QUEUE);
    const used = await this.#pull(theirs.requests);
    for (const [i, answer] of answers.entries()) {
      this.counts.requests++;
      const answered = { ...answer, theirs: used[i] ? statusOf(used[i]) : ([-2, -2] as const) };
      const difference = differences.find((candidate) => candidate.matches(answered));
      if (difference !== undefined) this.#explain(difference.what, difference.section);
      else if (used[i] === undefined || String(used[i].bytes) !== String(bytes[i]) || String(answered.ours) !== String(answered.theirs)) {
        this.unexplained.push(describeAnswer(answered));
        return true;
      }
      if (difference?.ends) return true;
    }
    return false;
  }

  async #dmas(iommu: VirtioIommu, ours: Side, theirs: Side, dmas: readonly Dma[]): Promise<void> {
    ours.refillEvents();
    theirs.refillEvents();
    await this.#push(theirs.events);
    for (const dma of dmas) {
      const isRead = dma.read && dma.endpoint === OTHER;
      const lg2 = iommu.translate(dma.endpoint, NO_PASID, 0, dma.iova, isRead ? READ : WRITE);
      const gpa = lg2 < 0 ? 0x10_0000n : joinHiLo(iommu.translated[1], iommu.translated[0]);
      const expected: DmaResult = lg2 < 0 ? 'refused' : 'done';
      this.counts.dmas++;
      if (expected === 'done') this.counts.landed++;
      const result = await this.#dma(dma, isRead, gpa, expected);
      if (result !== expected)
        this.unexplained.push(
          `DMA ${JSON.stringify(dma)}: ours ${expected}, theirs ${result}; domains ${JSON.stringify(iommu.save().domains)}`,
        );
    }
    const reports = ours.events.collect();
    const theirReports = await this.#pull(theirs.events);
    this.counts.faults += reports.length;
    if (String(reports.map(faultOf)) !== String(theirReports.map(faultOf)))
      this.unexplained.push(`fault reports: ours ${reports.map(faultOf)}; theirs ${theirReports.map(faultOf)}`);
    reports.forEach(({ bytes }, i) => {
      const theirs = theirReports[i]?.bytes ?? bytes;
      if (bytes[0] === 1 && theirs[0] === 0)
        this.#explain('the fault of an endpoint that was never attached has reason UNKNOWN', '5.13.6.9: DOMAIN');
      else if (bytes[0] !== theirs[0]) this.unexplained.push(`fault reason: ours ${bytes[0]}, theirs ${theirs[0]}`);
    });
  }

  /** What QEMU did. Where its device does not tell (a read, and what edu writes when it may not), the fault reports do. */
  async #dma({ endpoint, iova }: Dma, isRead: boolean, gpa: bigint, expected: DmaResult): Promise<DmaResult> {
    const { qemu, writer, edu } = this.#peer;
    qemu.writel(gpa, isRead ? 0 : SENTINEL);
    if (endpoint === EP) return writer.write(iova, gpa);
    if (isRead) await edu.fetch(iova, 4);
    else await edu.store(iova, 4);
    const left = (await qemu.readl(gpa)) === SENTINEL;
    return isRead || expected === 'refused' ? expected : left ? 'elsewhere' : 'done';
  }

  #explain(what: string, section: string): void {
    const text = `${what} (${section})`;
    this.explained.set(text, (this.explained.get(text) ?? 0) + 1);
  }

  async #push(driver: Driver): Promise<void> {
    const bytes = new Uint8Array(driver.bytes);
    driver.memory.read(0, driver.base, bytes, 0, bytes.length);
    await this.#peer.qemu.write(driver.base, bytes);
  }

  async #pull(driver: Driver): Promise<Used[]> {
    const bytes = await this.#peer.qemu.read(driver.base, driver.bytes);
    driver.memory.write(0, driver.base, bytes, 0, bytes.length);
    return driver.collect();
  }
}

describe("QEMU's virtio-iommu-pci", () => {
  test.each(ringKinds)('$name ring: random programs', async ({ name, ...kind }) => {
    const peer = await VirtioIommuPci.start(kind.packed ? ',packed=on' : '');
    try {
      const comparison = await Comparison.open(peer, kind);
      for (let seed = SEED; comparison.counts.dmas < ACCESSES && comparison.unexplained.length < 10; seed++) {
        for (const sample of fc.sample(program, { numRuns: 20, seed })) await comparison.run(sample);
      }
      const { programs, requests, dmas, landed, faults } = comparison.counts;
      const explained = [...comparison.explained].map(([text, count]) => `\n  ${count} × ${text}`);
      console.log(
        `virtio-iommu, ${name} ring: ${programs} programs, ${requests} requests, ${dmas} accesses (${landed} translated), ${faults} fault reports ` +
          `compared with ${peer.qemu.version}; explained differences: ${explained.join('') || 'none'}`,
      );
      expect(comparison.unexplained.slice(0, 10)).toEqual([]);
      expect(landed).toBeGreaterThan(dmas / 5);
    } finally {
      await peer.qemu.dispose();
    }
  });
});
