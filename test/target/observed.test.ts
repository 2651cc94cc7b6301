import { beforeEach, describe, expect, test } from 'vitest';
import { Observed } from '../../src/target/observed.ts';
import { type AddressSpace, type FirstStage, NO_PASID, type PasidDirectory, type TargetObserver } from '../../src/target/target.ts';

const ENDPOINT = 8;

function space(name: string): AddressSpace {
  return { name, owner: 'guest', announced: true, granuleLg2: 12, apertures: [], enumerate: (_first, last) => last + 1 };
}

describe('Observed', () => {
  let says: Map<string, AddressSpace | null>;
  let stage: FirstStage | null;
  let told: string[];
  let refuses: (name: string) => boolean;
  let observed: Observed;
  let observer: TargetObserver;
  let dispose: () => void;
  const say = (to: AddressSpace | null, pasid = NO_PASID) => says.set(`${ENDPOINT}/${pasid}`, to);

  beforeEach(() => {
    says = new Map();
    stage = null;
    told = [];
    refuses = () => false;
    const log = (what: string) => {
      told.push(what);
      return refuses(what) ? -12 : 0;
    };
    observer = {
      attach: (_endpoint, to, pasid) => log(`attach ${to?.name ?? null}${pasid === undefined ? '' : ` for ${pasid}`}`),
      changed: (to, first, last) => void log(`changed ${to.name} ${first}-${last}`),
      flush: () => log('flush'),
      invalidated: () => void log('invalidated'),
    };
    const spaces = { entered: ({ name }: AddressSpace) => log(`entered ${name}`), left: ({ name }: AddressSpace) => log(`left ${name}`) };
    const wantedSpaceOf = (endpoint: number, pasid: number) => says.get(`${endpoint}/${pasid}`) ?? null;
    observed = new Observed('Toy', { wantedSpaceOf, wantedStageOf: () => stage }, spaces);
    observed.add(ENDPOINT);
    dispose = observed.observe(observer, () => log('forget'));
    told.length = 0;
  });

  test('an attach is told when the space or the stage is another one, and only then', () => {
    const a = space('a');
    say(a);
    observed.refresh(ENDPOINT);
    observed.refresh(ENDPOINT);
    stage = { kind: 'bypass' };
    observed.refresh(ENDPOINT);
    expect(told).toEqual(['attach a', 'entered a', 'attach a']);
    expect(observed.reaches(a)).toBe(true);
  });

  test('what is refused is blocked, and asked for again until it is taken', () => {
    const b = space('b');
    say(space('a'));
    observed.refresh(ENDPOINT);
    told.length = 0;
    say(b);
    refuses = (what) => what === 'attach b';
    observed.refresh(ENDPOINT);
    expect(told).toEqual(['attach b', 'attach null', 'left a']);
    expect(observed.reaches(b)).toBe(false);
    observed.retry();
    refuses = () => false;
    told.length = 0;
    observed.retry();
    // Of what was taken a retry asks nothing: the guest has not invalidated it.
    say(space('c'));
    observed.retry();
    expect(told).toEqual(['attach b', 'entered b']);
  });

  test('what is refused counts as blocked from when the observer is told so until it is asked for again', () => {
    say(space('a'));
    const refused: boolean[] = [];
    const { attach } = observer;
    observer.attach = (endpoint, to, pasid) => {
      refused.push(observed.isRefused(endpoint, NO_PASID));
      return attach.call(observer, endpoint, to, pasid);
    };
    refuses = (what) => what === 'attach a';
    observed.refresh(ENDPOINT);
    expect([refused.splice(0), observed.isRefused(ENDPOINT, NO_PASID)]).toEqual([[false, true], true]);
    refuses = () => false;
    observed.retry();
    expect([refused, observed.isRefused(ENDPOINT, NO_PASID)]).toEqual([[false], false]);
  });

  test('an endpoint that reaches no space, and stands at a stage that its hardware walks, is told of when it goes, and is unknown by then', () => {
    stage = { kind: 'smmuv3', ste: [1n, 0n] };
    observed.refresh(ENDPOINT);
    told.length = 0;
    const known: boolean[] = [];
    observer.attach = (endpoint, to) => {
      known.push(observed.knows(endpoint));
      return told.push(`attach ${to?.name ?? null}`) * 0;
    };
    observed.remove(ENDPOINT);
    expect([told, known]).toEqual([['attach null'], [false]]);
  });

  test('an endpoint that is removed is blocked, and nothing is asked for it again', () => {
    say(space('a'));
    observed.refresh(ENDPOINT);
    refuses = (what) => what === 'attach b';
    say(space('b'));
    observed.refresh(ENDPOINT);
    refuses = () => false;
    observed.remove(ENDPOINT);
    told.length = 0;
    observed.retry();
    observed.refresh(ENDPOINT);
    expect(told).toEqual([]);
    expect(observed.knows(ENDPOINT)).toBe(false);
  });

  test('a PASID is told of while it reaches something, 1,024 of an endpoint', () => {
    const process = space('process');
    for (let pasid = 0; pasid < 1100; pasid++) {
      say(process, pasid);
      observed.refreshProcess(pasid);
    }
    expect(told.filter((what) => what.startsWith('attach process for'))).toHaveLength(1024);
    expect(observed.count).toBe(1025);
    told.length = 0;
    for (let pasid = 0; pasid < 1100; pasid++) say(null, pasid);
    observed.refreshAll();
    expect(told.filter((what) => what.startsWith('attach null for'))).toHaveLength(1024);
    expect(told.at(-1)).toBe('left process');
  });

  test('a PASID that is refused is blocked by that, asked for again, and let go once it reaches nothing', () => {
    say(space('a'), 3);
    observed.refreshProcess(3);
    const b = space('b');
    say(b, 3);
    refuses = (what) => what === 'attach b for 3';
    told.length = 0;
    observed.refreshProcess(3);
    observed.retry();
    expect(told).toEqual(['attach b for 3', 'left a', 'attach b for 3']);
    expect([observed.reaches(b), observed.pasidsOf(ENDPOINT)]).toEqual([false, [3]]);
    told.length = 0;
    say(null, 3);
    observed.refreshAll();
    observed.retry();
    expect([told, observed.pasidsOf(ENDPOINT)]).toEqual([['attach null for 3'], []]);
  });

  test('a flush follows changes and the guest’s own words, and again while it fails', () => {
    observed.flush();
    expect(told).toEqual([]);
    observed.changed(space('a'), 1, 2);
    refuses = (what) => what === 'flush';
    observed.flush();
    refuses = () => false;
    observed.flush();
    observed.flush();
    expect(told).toEqual(['changed a 1-2', 'flush', 'flush']);
    told.length = 0;
    // Words alone can be all that there is to wait for: hardware walks the guest's tables.
    observed.invalidated(new Int32Array(4), ENDPOINT);
    observed.flush();
    expect(told).toEqual(['invalidated', 'flush']);
  });

  test('an observer at a time; when it goes, all that was kept for it goes, and the next one is told anew', () => {
    const a = space('a');
    say(a);
    say(space('process'), 3);
    observed.refreshProcess(3);
    expect(() => observed.observe(observer, () => {})).toThrow('Toy: it has an observer already');
    expect(observed.count).toBe(2);
    told.length = 0;
    dispose();
    dispose();
    expect(told).toEqual(['left a', 'left process', 'forget']);
    expect([observed.observer, observed.reaches(a), observed.count]).toEqual([null, false, 1]);
    told.length = 0;
    observed.refresh(ENDPOINT);
    observed.flush();
    expect(told).toEqual([]);
    observed.observe(observer, () => {});
    expect(told).toEqual(['attach a', 'entered a']);
    dispose();
    expect(observed.observer).toBe(observer);
  });

  test('directories are told of when they are others, and anew to the next observer', () => {
    let directory: PasidDirectory | null = { name: 'one', read: () => {}, stored: () => {} };
    const heard: (string | null)[] = [];
    const hears = { ...observer, directory: (_: number, to: PasidDirectory | null) => void heard.push(to?.name ?? null) };
    const toy = new Observed('Toy', { wantedSpaceOf: () => null, directoryOf: () => directory });
    toy.add(ENDPOINT);
    const end = toy.observe(hears, () => {});
    toy.refresh(ENDPOINT);
    expect(heard).toEqual(['one']);
    end();
    expect(toy.directoryOf(ENDPOINT)).toBe(null);
    toy.observe(hears, () => {});
    directory = { ...directory, name: 'other' };
    toy.refresh(ENDPOINT);
    toy.remove(ENDPOINT);
    expect(heard).toEqual(['one', 'one', 'other', null]);
  });
});
