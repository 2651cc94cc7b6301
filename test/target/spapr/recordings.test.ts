import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { hiOf, joinHiLo, loOf } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import {
  FAULT_PAGE,
  FAULT_PERMISSION,
  H_PUT_TCE,
  type HostBridgeOptions,
  HypercallRegisters,
  SpaprIommu,
} from '../../../src/target/spapr/index.ts';
import { NO_PASID } from '../../../src/target/target.ts';

/**
 * What a stock Linux guest asked of QEMU 11.1 and what QEMU answered (test/recordings/README.md): every answer must be the same,
 * and every DMA that was recorded must land where it landed there.
 */
const traces = new URL('../../recordings/', import.meta.url);

interface Line {
  readonly op: string;
  readonly [field: string]: unknown;
}

interface MachineLine extends Line {
  readonly ram: readonly { gpa: string; bytes: string }[];
  readonly windows: readonly { liobn: string; start: string; pageShift: number; pages: number }[];
  readonly ddw: { windows: number; pageSizeMask: string; start: string; liobn: string };
}

const ENDPOINT = 0x800;

function bridgeOf(machine: MachineLine, buid: bigint): HostBridgeOptions {
  const { ddw } = machine;
  const liobn = Number(ddw.liobn);
  return {
    buid,
    endpoints: [ENDPOINT],
    windows: machine.windows.map((window) => ({
      liobn: Number(window.liobn),
      start: BigInt(window.start),
      pageLg2: window.pageShift,
      pages: window.pages,
    })),
    ddw: {
      liobns: Array.from({ length: ddw.windows }, (_, i) => liobn + i),
      pageSizeMask: Number(ddw.pageSizeMask),
      start: BigInt(ddw.start),
    },
  };
}

/** RAM that no one reads: only where it lies matters to TCEs. */
function memoryOf(machine: MachineLine): GuestMemory {
  return new GuestMemory(machine.ram.map(({ gpa, bytes }) => ({ gpa: BigInt(gpa), buffer: new SharedArrayBuffer(Number(bytes)) })));
}

class Replay {
  readonly iommu: SpaprIommu;
  readonly starts = new Map<number, bigint>();
  readonly registers = new HypercallRegisters();
  readonly checked = { answers: 0, dma: 0 };
  readonly wrong: unknown[] = [];
  readonly buid: bigint;

  constructor(machine: MachineLine, buid: bigint) {
    this.buid = buid;
    this.iommu = new SpaprIommu({ memory: memoryOf(machine), bridges: [bridgeOf(machine, buid)] });
    for (const window of machine.windows) this.starts.set(Number(window.liobn), BigInt(window.start));
  }

  #answer(line: Line, right: boolean): void {
    this.checked.answers++;
    if (!right) this.wrong.push(line);
  }

  put(line: Line): void {
    const { u64 } = this.registers;
    u64[4] = BigInt(line['liobn'] as string);
    u64[5] = BigInt(line['ioba'] as string);
    u64[6] = BigInt(line['tce'] as string);
    this.#answer(line, this.iommu.hypercall(H_PUT_TCE, this.registers) === line['ret']);
  }

  xlate(line: Line): void {
    const address = BigInt(line['ioba'] as string) + (this.starts.get(Number(line['liobn'])) ?? -1n);
    const mask = BigInt(line['mask'] as string);
    const permission = line['perm'] as number;
    const { iommu } = this;
    const { translated } = iommu;
    for (const access of [READ, WRITE, READ_WRITE]) {
      const lg2 = iommu.translate(ENDPOINT, NO_PASID, hiOf(address), loOf(address), access);
      this.checked.dma++;
      const refusal = permission === 0 ? FAULT_PAGE : FAULT_PERMISSION;
      const right =
        (access & ~permission) === 0
          ? (1n << BigInt(lg2)) - 1n === mask && (joinHiLo(translated[1], translated[0]) & ~mask) === BigInt(line['addr'] as string)
          : lg2 === refusal;
      if (!right) this.wrong.push(line);
    }
  }

  #unit(line: Line): number[] {
    return [Number(line['addr']), Number(this.buid >> 32n), Number(this.buid & 0xffffffffn)];
  }

  ddwQuery(line: Line): void {
    const rets = new Uint32Array(5);
    this.iommu.rtas('ibm,query-pe-dma-window', Uint32Array.from(this.#unit(line)), rets);
    const expected = [0, line['windowsAvailable'], Number(line['largestTceBlock']), Number(line['pageSizeMask']), 0];
    this.#answer(line, JSON.stringify([...rets]) === JSON.stringify(expected));
  }

  ddwCreate(line: Line): void {
    const rets = new Uint32Array(4);
    const sizes = [Math.log2(Number(line['pageBytes'])), Math.log2(Number(line['windowBytes']))];
    this.iommu.rtas('ibm,create-pe-dma-window', Uint32Array.from([...this.#unit(line), ...sizes]), rets);
    const start = BigInt(line['start'] as string);
    const liobn = Number(line['liobn']);
    this.starts.set(liobn, start);
    this.#answer(line, rets[0] === 0 && rets[1] === liobn && joinHiLo(rets[2], rets[3]) === start);
  }
}

describe('recorded pseries guests', () => {
  it.for([
    { file: 'pseries-linux-6.12-put-tce.ndjson.gz', answers: 282_713, dma: 3 * 16_379 },
    { file: 'pseries-linux-6.12-ddw.ndjson.gz', answers: 262_211, dma: 3 * 9_814 },
  ])('$file: every answer and every DMA is right', ({ file, answers, dma }) => {
    const path = new URL(file, traces);
    const lines = gunzipSync(readFileSync(path)).toString('utf8').trimEnd().split('\n');
    const machine = JSON.parse(lines[0]) as MachineLine;
    const replay = new Replay(machine, 0x800000020000000n);
    for (let i = 1; i < lines.length; i++) {
      const line = JSON.parse(lines[i]) as Line;
      const { op } = line;
      if (op !== 'put' && op !== 'xlate' && op !== 'ddwQuery' && op !== 'ddwCreate') throw new Error(`${file}:${i + 1}: ${op}`);
      replay[op](line);
    }
    expect(replay.wrong).toEqual([]);
    expect(replay.checked).toEqual({ answers, dma });
  });
});
