import {
  H_GET_TCE,
  H_HARDWARE,
  H_NOT_ENOUGH_RESOURCES,
  H_PUT_TCE,
  H_PUT_TCE_INDIRECT,
  H_STUFF_TCE,
} from '../../../src/target/spapr/index.ts';
import type { Run } from '../hardware.ts';
import { bridges, ram } from './machine.ts';

/** A window and its TCEs as LoPAR 14.5.4.2 speaks of them: a map from index to TCE, on `bigint`. */
export interface ModelWindow {
  readonly liobn: bigint;
  readonly bridge: number;
  readonly start: bigint;
  readonly pageLg2: bigint;
  readonly pages: bigint;
  readonly tces: Map<bigint, bigint>;
}

function isRam(address: bigint, bytes: bigint): boolean {
  return ram.some(([start, size]) => address >= start && address + bytes <= start + BigInt(size));
}

function mayStand({ pageLg2 }: ModelWindow, tce: bigint): boolean {
  const page = 1n << pageLg2;
  return (tce & 3n) === 0n || isRam(tce - (tce % page), page);
}

/** What the hypercalls do, written down from LoPAR step by step: slow, and in no way like the implementation. */
export class Model {
  windows: ModelWindow[] = bridges.flatMap(({ windows }, bridge) =>
    windows.map(({ liobn, start, pageLg2, pages }) => this.window(bridge, BigInt(liobn), start, BigInt(pageLg2), BigInt(pages))),
  );

  window(bridge: number, liobn: bigint, start: bigint, pageLg2: bigint, pages: bigint): ModelWindow {
    return { bridge, liobn, start, pageLg2, pages, tces: new Map() };
  }

  /**
   * The return code of a hypercall, and what H_GET_TCE reads. `list` is what lies in guest memory at R6. `refused`: the host did
   * not follow a change that the hypercall made.
   */
  call(
    opcode: number,
    [liobn, ioba, third, count]: readonly bigint[],
    list: readonly bigint[],
    refused: boolean,
  ): { code: number; tce?: bigint } {
    if (opcode === H_PUT_TCE_INDIRECT && liobn >= 1n << 63n) return { code: -2 };
    const window = this.windows.find((candidate) => candidate.liobn === liobn);
    if (window === undefined) return { code: -4 };
    const index = (ioba - window.start) >> window.pageLg2;
    const inWindow = ioba >= window.start && ioba % (1n << window.pageLg2) === 0n && index < window.pages;
    if (!inWindow) return { code: -4 };
    switch (opcode) {
      case H_GET_TCE:
        return { code: 0, tce: window.tces.get(index) ?? 0n };
      case H_PUT_TCE:
        return { code: this.#store(window, index, [third], refused) };
      case H_STUFF_TCE:
        return { code: count > 512n ? -57 : this.#stuff(window, index, third, count, refused) };
      default:
        if (count > 512n || third % 4096n !== 0n || !isRam(third, 4096n)) return { code: -4 };
        return { code: this.#store(window, index, list.slice(0, Number(count)), refused) };
    }
  }

  /** The TCE is checked though it be stored nowhere. */
  #stuff(window: ModelWindow, index: bigint, tce: bigint, count: bigint, refused: boolean): number {
    if (!mayStand(window, tce)) return -4;
    return this.#store(window, index, new Array<bigint>(Number(count)).fill(tce), refused);
  }

  #store(window: ModelWindow, index: bigint, tces: readonly bigint[], refused: boolean): number {
    if (index + BigInt(tces.length) > window.pages) return -4;
    if (!tces.every((tce) => mayStand(window, tce))) return -4;
    if (refused) return tces.some((tce) => (tce & 3n) !== 0n) ? H_NOT_ENOUGH_RESOURCES : H_HARDWARE;
    tces.forEach((tce, i) => {
      window.tces.set(index + BigInt(i), tce);
    });
    return 0;
  }

  /** What a bridge's space maps, in 4 KiB pages: bus page to [guest page, permission]. */
  pages(bridge: number): Map<number, readonly [number, number]> {
    const pages = new Map<number, readonly [number, number]>();
    for (const window of this.windows) {
      if (window.bridge !== bridge) continue;
      const per = 1 << Number(window.pageLg2 - 12n);
      for (const [index, tce] of window.tces) {
        const permission = Number(tce & 3n);
        const iova = Number((window.start >> 12n) + index * BigInt(per));
        const gpa = Number((tce >> window.pageLg2) << (window.pageLg2 - 12n));
        if (permission !== 0) for (let i = 0; i < per; i++) pages.set(iova + i, [gpa + i, permission]);
      }
    }
    return pages;
  }
}

/** The runs that pages make: as long as they can be, ascending. */
export function coalesce(pages: ReadonlyMap<number, readonly [number, number]>): Run[] {
  const runs: { iova: number; gpa: number; pages: number; permission: number }[] = [];
  for (const [iova, [gpa, permission]] of [...pages].sort(([a], [b]) => a - b)) {
    const last = runs.at(-1);
    if (last !== undefined && last.iova + last.pages === iova && last.gpa + last.pages === gpa && last.permission === permission)
      last.pages++;
    else runs.push({ iova, gpa, pages: 1, permission });
  }
  return runs;
}
