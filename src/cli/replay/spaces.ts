import { PAGE_LG2, PFN_LIMIT } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { PfnRange } from '../../target/target.ts';
import type { RecordedLine } from '../recording.ts';
import { guarded, type RecordedTarget, type ReplayContext, recordedDma, recordedPasid } from './replayer.ts';
import { RecordedSpace, SpacesTarget } from './spaces-target.ts';

export function recordedSpaces(_machine: RecordedLine, memory: GuestMemory): RecordedTarget {
  return new RecordedSpaces(memory);
}

/** Replays what `recordTo` wrote of a machine: what its guest's spaces meant, who reached them, and what its devices did. */
class RecordedSpaces implements RecordedTarget {
  readonly target: SpacesTarget;
  /** QEMU has not run these guests. */
  readonly peerHostCalls = 0;
  readonly #spaces = new Map<number, RecordedSpace>();
  readonly #passedThrough = new Set<number>();

  constructor(memory: GuestMemory) {
    this.target = new SpacesTarget(memory);
  }

  replay(line: RecordedLine, context: ReplayContext): void {
    switch (line.op) {
      case 'space':
        this.#describe(line);
        break;
      case 'attach':
        this.#result(
          line,
          context,
          this.target.attach(line.u32('endpoint'), recordedPasid(line), line.has('space') ? this.#space(line) : null),
        );
        break;
      case 'changed':
        this.#changed(line);
        break;
      case 'flush':
        this.#result(line, context, this.target.flush());
        break;
      case 'ram':
        context.changeRam(line);
        break;
      case 'endpoint':
        this.#endpoint(line, context);
        break;
      case 'dma': {
        // Faults are those of the recorded target: which one it was, the runs do not tell.
        const { fault: _, ...dma } = recordedDma(line);
        context.dma.check(dma);
        break;
      }
      default:
        line.fail('is no operation of a recorded machine');
    }
  }

  #describe(line: RecordedLine): void {
    const id = line.u32('space');
    const space = this.#spaces.get(id) ?? new RecordedSpace();
    const bounds = line.u64List('apertures').map(Number);
    const owner = line.text('owner');
    if (owner !== 'target' && owner !== 'guest') line.fail(`'owner' is '${owner}'`);
    space.name = line.text('name');
    space.owner = owner;
    space.granuleLg2 = line.integer('granuleLg2');
    if (space.granuleLg2 < PAGE_LG2 || space.granuleLg2 > 63) line.fail(`'granuleLg2' is ${space.granuleLg2}: no page is so large`);
    space.apertures = bounds.flatMap((first, i) => (i % 2 === 0 ? [aperture(line, first, bounds[i + 1])] : []));
    this.#spaces.set(id, space);
  }

  #changed(line: RecordedLine): void {
    const space = this.#space(line);
    const [first, last] = [line.integer('first'), line.integer('last')];
    const runs = line.u64List('runs').map(Number);
    if (runs.length % 4 !== 0) line.fail("'runs' are four numbers each");
    guarded(line, () => space.replace(first, last, runs));
    this.target.changed(space, first, last);
  }

  /** The endpoint's device stands in the machine from now on. */
  #endpoint(line: RecordedLine, { passThrough }: ReplayContext): void {
    const endpoint = line.u32('endpoint');
    if (this.#passedThrough.has(endpoint)) return;
    this.#passedThrough.add(endpoint);
    passThrough(endpoint);
  }

  #space(line: RecordedLine): RecordedSpace {
    return this.#spaces.get(line.u32('space')) ?? line.fail(`no space ${line.u32('space')} was described`);
  }

  /** A machine without a host recorded no result. */
  #result(line: RecordedLine, { answers }: ReplayContext, result: number): void {
    if (!line.has('ret')) return;
    const expected = line.integer('ret');
    answers.check(result === expected, () => `line ${line.number}: ${line.op} ends with ${result}, not ${expected}`);
  }
}

/** Pages from `first` to `last`, as a line has them in turn. */
function aperture(line: RecordedLine, first: number, last: number | undefined): PfnRange {
  if (last === undefined) line.fail('an aperture has no end');
  if (last < first || last >= PFN_LIMIT) line.fail(`an aperture has the pages ${first} to ${last}`);
  return { first, last };
}
