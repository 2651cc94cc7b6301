import { applyPatches, type Patch } from 'immer';
import { describe, expect, test } from 'vitest';
import { type EndpointState, type MachineState, type ProcessState, StateStore } from '../../src/vmm/machine-state.ts';

const endpoint = (space: string | null): EndpointState => ({ kind: 'emulated', device: null, space, path: 'emulated', refused: [] });
const process = (space: string | null): ProcessState => ({ space, path: 'shadow', refused: [] });

describe('the state of a machine', () => {
  test('is what its patches make of the one before, and their inverse of the one behind, whatever comes and goes', () => {
    const store = new StateStore({ target: 'sPAPR', host: 'iommufd' });
    const history: { before: MachineState; patches: readonly Patch[]; inverse: readonly Patch[] }[] = [];
    let before = store.state;
    store.listen((patches, inverse) => void history.push({ before, patches, inverse }));
    const steps: (() => void)[] = [
      () => store.put(8, endpoint('a')),
      () => store.put(9, endpoint(null)),
      () => store.put(8, endpoint('b')),
      () => store.putProcess(8, 1, process('x')),
      () => store.putProcess(8, 2, process('y')),
      () => store.putProcess(8, 1, process(null)),
      () => store.putProcess(8, 1, null),
      () => store.putProcess(8, 2, null),
      () => store.put(9, null),
      () => store.put(10, endpoint('c')),
      () => store.clear(),
    ];
    for (const step of steps) {
      const told = history.length;
      step();
      expect(history.length).toBe(told + 1);
      const { patches, inverse } = history.at(-1)!;
      const after = store.state;
      expect(applyPatches(before, [...patches])).toEqual(after);
      expect(applyPatches(after, [...inverse])).toEqual(before);
      expect(Object.isFrozen(after)).toBe(true);
      before = after;
    }
    // What was taken out is put back, not exchanged.
    expect(history.at(-1)!.inverse.map(({ op }) => op)).toEqual(['add', 'add']);
    expect(before).toEqual({ target: 'sPAPR', host: 'iommufd', endpoints: {} });
  });

  test('is told of nothing that was not there, and to nobody who left', () => {
    const store = new StateStore({ target: 'sPAPR', host: null });
    let told = 0;
    const end = store.listen(() => void told++);
    store.put(1, null);
    store.putProcess(1, 1, null);
    store.clear();
    expect(told).toBe(0);
    store.put(1, endpoint('a'));
    end();
    store.put(2, endpoint('a'));
    expect([told, Object.keys(store.state.endpoints)]).toEqual([1, ['1', '2']]);
    expect([store.endpoint(1)?.space, store.endpoint(3), store.process(1, 1)]).toEqual(['a', undefined, undefined]);
  });
});
