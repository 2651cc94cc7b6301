import type { GuestMemory } from '../../memory/guest-memory.ts';
import { targetFault } from '../../target/fault-codes.ts';
import { FAULT_R_UNKNOWN, type ReservedRegion, statusName, VirtioIommu } from '../../target/virtio-iommu/index.ts';
import { hex } from '../../vmm/recording-lines.ts';
import type { RecordedLine } from '../recording.ts';
import type { ExpectedDma } from './dma-check.ts';
import { guarded, type RecordedTarget, type ReplayContext, recordedAccess } from './replayer.ts';

/** VIRTIO_IOMMU_RESV_MEM_T_MSI (virtio 1.4, 5.13.6.8.1). */
const SUBTYPE_MSI = 1;
/** VIRTIO_IOMMU_S_OK. */
const OK = 0;

/** An UNMAP whose `unmapped` lines are still coming. */
interface Unmap {
  readonly line: number;
  /** Mappings that our device removed. */
  readonly removed: number;
  recorded: number;
}

export function recordedVirtioIommu(machine: RecordedLine, memory: GuestMemory, end: bigint | null): RecordedTarget {
  return new RecordedVirtioIommu(machine, memory, end);
}

class RecordedVirtioIommu implements RecordedTarget {
  readonly target: VirtioIommu;
  readonly notes?: readonly string[];
  peerHostCalls = 0;
  /** Reserved regions of endpoints that nothing else was said of yet: they have to be known when the endpoint is made. */
  readonly #announced = new Map<number, ReservedRegion[]>();
  readonly #endpoints = new Set<number>();
  #unmap: Unmap | null = null;
  /** An access whose translation may stand in the next line; without one it lands where it says. */
  #access: ExpectedDma | null = null;

  /** `end`: no domain reaches further, whatever the recorded range was: that is the device's choice (virtio 1.4, 5.13.4). */
  constructor(machine: RecordedLine, memory: GuestMemory, end: bigint | null) {
    const inputRange = machine.object('inputRange');
    const [start, recorded] = [inputRange.u64('start'), inputRange.u64('last')];
    const last = end !== null && recorded >= end && start < end ? end - 1n : recorded;
    if (last !== recorded)
      this.notes = [`the input range ends at ${hex(last)}, for the hardware's first stages do; recorded was ${hex(recorded)}`];
    const domainRange = machine.object('domainRange');
    const config = {
      memory,
      pageSizeMask: machine.u64('pageSizeMask'),
      inputRange: { start, last },
      domainRange: { first: domainRange.u32('start'), last: domainRange.u32('last') },
      probeBytes: machine.integer('probeBytes'),
      bootBypass: machine.integer('bypass') !== 0,
    };
    this.target = guarded(machine, () => new VirtioIommu(config));
    this.target.negotiate();
  }

  replay(line: RecordedLine, context: ReplayContext): void {
    if (this.#access !== null && line.op !== 'xlate' && line.op !== 'fault') this.#bypassed(context);
    if (this.#unmap !== null && line.op !== 'unmapped') this.#unmapEnded(context);
    switch (line.op) {
      case 'reserved':
        this.#reserved(line, context);
        break;
      case 'attach':
        this.#status(
          line,
          context,
          this.target.attach(line.u32('domain'), this.#endpoint(line, context), line.has('flags') ? line.u32('flags') : 0),
        );
        break;
      case 'detach':
        this.#status(line, context, this.target.detach(line.u32('domain'), this.#endpoint(line, context)));
        break;
      case 'map':
        this.#map(line, context);
        break;
      case 'unmap':
        this.#startUnmap(line, context);
        break;
      case 'unmapped':
        this.#unmapped(line);
        break;
      case 'dma':
        this.#access = this.#recordedAccess(line, context);
        break;
      case 'xlate':
        this.#xlate(line, context);
        break;
      case 'fault':
        this.#fault(line, context);
        break;
      case 'reset':
        this.target.reset();
        this.target.negotiate();
        break;
      default:
        line.fail('is no operation of a virtio-iommu guest');
    }
  }

  end(context: ReplayContext): void {
    if (this.#access !== null) this.#bypassed(context);
    if (this.#unmap !== null) this.#unmapEnded(context);
  }

  /** A recorded PROBE: before the endpoint exists it says what to make of it, afterwards what our PROBE must answer. */
  #reserved(line: RecordedLine, { answers }: ReplayContext): void {
    const id = line.u32('endpoint');
    const region: ReservedRegion = {
      kind: line.integer('subtype') === SUBTYPE_MSI ? 'msi' : 'reserved',
      start: line.u64('start'),
      last: line.u64('end'),
    };
    if (!this.#endpoints.has(id)) {
      this.#announced.set(id, [...(this.#announced.get(id) ?? []), region]);
      return;
    }
    const found = this.target.probe(id) ?? [];
    const same = found.some(({ kind, start, last }) => kind === region.kind && start === region.start && last === region.last);
    answers.check(same, () => `line ${line.number}: PROBE does not report [${hex(region.start)}, ${hex(region.last)}]`);
  }

  /** The line's endpoint, made and passed through when it is heard of for the first time. */
  #endpoint(line: RecordedLine, { passThrough }: ReplayContext): number {
    const id = line.u32('endpoint');
    if (!this.#endpoints.has(id)) {
      guarded(line, () => this.target.addEndpoint(id, this.#announced.get(id)));
      this.#endpoints.add(id);
      passThrough(id);
    }
    return id;
  }

  /** A recording has only requests that were carried out, unless it says otherwise in `ret`. */
  #status(line: RecordedLine, { answers, machine }: ReplayContext, status: number): void {
    const expected = line.has('ret') ? line.integer('ret') : OK;
    answers.check(status === expected, () => {
      const answer = statusName(status);
      // What the host refused.
      const why = answer !== 'DEVERR' || machine.hostError === null ? '' : `: ${machine.hostError.message}`;
      return `line ${line.number}: ${line.op} answers ${answer}, not ${statusName(expected)}${why}`;
    });
  }

  #map(line: RecordedLine, context: ReplayContext): void {
    const start = line.u64('virtStart');
    const last = line.u64('virtEnd');
    this.peerHostCalls += alignedPieces(start, last);
    this.#status(line, context, this.target.map(line.u32('domain'), start, last, line.u64('physStart'), line.u32('flags')));
  }

  #startUnmap(line: RecordedLine, context: ReplayContext): void {
    const before = this.target.counts.mappings;
    this.#status(line, context, this.target.unmap(line.u32('domain'), line.u64('virtStart'), line.u64('virtEnd')));
    this.#unmap = { line: line.number, removed: before - this.target.counts.mappings, recorded: 0 };
  }

  #unmapped(line: RecordedLine): void {
    if (this.#unmap === null) line.fail('follows no unmap');
    this.#unmap.recorded++;
    this.peerHostCalls += alignedPieces(line.u64('virtStart'), line.u64('virtEnd'));
  }

  #unmapEnded({ answers }: ReplayContext): void {
    const { line, removed, recorded } = this.#unmap!;
    this.#unmap = null;
    answers.check(removed === recorded, () => `line ${line}: UNMAP removes ${removed} mappings, not ${recorded}`);
  }

  #recordedAccess(line: RecordedLine, context: ReplayContext): ExpectedDma {
    const iova = line.u64('iova');
    const allowed = recordedAccess(line, 'flag');
    return { endpoint: this.#endpoint(line, context), iova, gpa: iova, allowed, forbidden: 0, line: line.number };
  }

  #xlate(line: RecordedLine, context: ReplayContext): void {
    const access = this.#access ?? line.fail('follows no dma');
    const iova = line.u64('iova');
    const endpoint = line.u32('endpoint');
    if (access.iova !== iova || access.endpoint !== endpoint) line.fail('is not the translation of the dma before it');
    this.#access = null;
    context.dma.check({ ...access, gpa: line.u64('addr'), line: line.number });
  }

  /**
   * The access before was refused, with a reason (5.13.6.9). QEMU gives 0, unknown, for an endpoint that no domain has, where the specification
   * says DOMAIN.
   */
  #fault(line: RecordedLine, { dma }: ReplayContext): void {
    const access = this.#access ?? line.fail('follows no dma');
    if (access.iova !== line.u64('iova') || access.endpoint !== line.u32('endpoint')) line.fail('is not about the dma before it');
    this.#access = null;
    const reason = line.integer('reason');
    const fault = reason === FAULT_R_UNKNOWN ? {} : { fault: targetFault('virtio-iommu', reason) };
    dma.check({ ...access, allowed: 0, forbidden: access.allowed, ...fault, line: line.number });
  }

  /** An access that was not translated: the endpoint had no domain yet, or it was an MSI, which no memory sees (5.13.6.8.1). */
  #bypassed({ dma }: ReplayContext): void {
    const access = this.#access!;
    const { endpoint, iova } = access;
    this.#access = null;
    const isMsi = (this.target.probe(endpoint) ?? []).some(({ kind, start, last }) => kind === 'msi' && iova >= start && iova <= last);
    if (isMsi) dma.checkSoftware(access);
    else dma.check(access);
  }
}

/** Pieces of [start, last] whose sizes are powers of two and that are aligned to them: QEMU notifies one by one. */
function alignedPieces(start: bigint, last: bigint): number {
  let pieces = 0;
  for (let at = start; at <= last; pieces++) {
    const left = last - at + 1n;
    let size = at === 0n ? 1n << 63n : at & -at;
    while (size > left) size >>= 1n;
    at += size;
  }
  return pieces;
}
