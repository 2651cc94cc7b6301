import type { ZpciIommu } from '../../target/zpci/index.ts';
import { hex } from '../../vmm/recording-lines.ts';
import type { RecordedLine } from '../recording.ts';

/** Bytes of every request, and of every response but the list's. */
const REQUEST = 32;
const RESPONSE = 0xc0;
const COMMAND = { clpQuery: 3, clpGroup: 4, clpSet: 5 } as const;
const OK = 0x10;

/** The CLP blocks of recorded lines: makes them, and compares what the target answers. */
export class ZpciBlocks {
  readonly #block = new Uint8Array(REQUEST + RESPONSE);
  readonly #view = new DataView(this.#block.buffer);
  readonly #fids = new Map<number, number>();

  /** The function whose handle this is, in whatever state. */
  know(handle: number, fid: number): void {
    this.#fids.set(handle & 0xffff, fid);
  }

  /** The function of a handle that is known, by the machine or by CLP. */
  fidOf(handle: number): number | null {
    return this.#fids.get(handle & 0xffff) ?? null;
  }

  /** Does what a line records, and says in which ways the answer is another one. */
  differences(target: ZpciIommu, line: RecordedLine): string[] {
    const view = this.#view;
    this.#block.fill(0);
    view.setUint16(0, REQUEST);
    view.setUint16(2, COMMAND[line.op as keyof typeof COMMAND]);
    view.setUint16(REQUEST, RESPONSE);
    if (line.op === 'clpGroup') view.setUint32(0x10, line.u32('group'));
    else view.setUint32(0x10, line.u32('handle'));
    if (line.op === 'clpSet') {
      view.setUint8(0x16, line.integer('oc'));
      view.setUint8(0x17, line.integer('ndas'));
    }
    target.clp(this.#block);
    const at = (offset: number) => REQUEST + offset;
    const expected: [string, number | bigint][] = [['rsp', view.getUint16(at(2))]];
    if (line.u32('rsp') === OK) {
      if (line.op === 'clpSet') expected.push(['newHandle', view.getUint32(at(0x10))]);
      if (line.op === 'clpGroup') {
        expected.push(['refresh', view.getUint8(at(0x13)) & 1]);
        expected.push(['dasm', view.getBigUint64(at(0x20))], ['msia', view.getBigUint64(at(0x28))]);
      }
      if (line.op === 'clpQuery') {
        this.know(line.u32('handle'), view.getUint32(at(0x14)));
        expected.push(['group', view.getUint8(at(0x13))], ['fid', view.getUint32(at(0x14))], ['uid', view.getUint32(at(0x7c))]);
        expected.push(['sdma', view.getBigUint64(at(0x40))], ['edma', view.getBigUint64(at(0x48))]);
      }
    }
    return expected.flatMap(([field, found]) =>
      line.has(field) && line.u64(field) !== BigInt(found) ? [`${field} ${hex(found)}, not ${hex(line.u64(field))}`] : [],
    );
  }
}
