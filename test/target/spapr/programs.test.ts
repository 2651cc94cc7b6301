import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { hiOf, hiOfPfn, joinHiLo, loOf, loOfPfn, pfnOfHiLo } from '../../../src/memory/address.ts';
import { H_GET_TCE, H_PUT_TCE_INDIRECT, RTAS_HARDWARE_ERROR, RTAS_PARAMETER_ERROR, RTAS_SUCCESS } from '../../../src/target/spapr/index.ts';
import { reaching } from '../../reaching.ts';
import { runsOf } from '../hardware.ts';
import { bridges, Hardware, TestMachine, unit } from './machine.ts';
import { coalesce, Model } from './model.ts';
import { buid, program, type Step } from './programs.ts';

/** What lies in guest memory at a list's address after the step wrote its list there; empty where there is no RAM. */
function listAt(machine: TestMachine, address: bigint): bigint[] {
  const tces: bigint[] = [];
  const { word } = machine.memory;
  for (let i = 0n; i < 512n; i++) {
    const at = BigInt.asUintN(64, address + 8n * i);
    if (machine.memory.load64BE(hiOf(at), loOf(at)) < 0) return [];
    tces.push(joinHiLo(word[1], word[0]));
  }
  return tces;
}

/** A machine, hardware behind it and the model beside it; `run` does a step on all and compares the answers. */
class Trial {
  machine = new TestMachine();
  hardware = new Hardware();
  readonly model = new Model();

  constructor(failAt = Number.POSITIVE_INFINITY) {
    this.machine.iommu.observe(this.hardware);
    this.hardware.failAt = failAt;
  }

  run(step: Step): void {
    const failures = this.hardware.failures;
    const refused = () => this.hardware.failures > failures;
    if (step.kind === 'call') this.#call(step, refused);
    else this.#rtas(step, refused);
  }

  #call({ opcode, parameters, list }: Extract<Step, { kind: 'call' }>, refused: () => boolean): void {
    const { machine, model } = this;
    const [, , third] = parameters;
    if (opcode === H_PUT_TCE_INDIRECT) machine.list(third, list);
    const code = machine.call(opcode, ...parameters);
    const expected = model.call(opcode, parameters, opcode === H_PUT_TCE_INDIRECT ? listAt(machine, third) : [], refused());
    expect(code).toBe(expected.code);
    if (opcode === H_GET_TCE && code === 0) expect(machine.registers.u64[4]).toBe(expected.tce);
  }

  #rtas(step: Exclude<Step, { kind: 'call' }>, refused: () => boolean): void {
    const { machine, model } = this;
    const [own, others] = [model.windows.filter(({ bridge }) => bridge === 0), model.windows.filter(({ bridge }) => bridge === 1)];
    const defaults = new Model().windows.slice(0, 1);
    if (step.kind === 'reset') {
      const { status } = machine.rtas('ibm,reset-pe-dma-windows', unit(buid), 1);
      expect(status).toBe(refused() ? RTAS_HARDWARE_ERROR : RTAS_SUCCESS);
      if (status === 0) model.windows = [...defaults, ...others];
    } else if (step.kind === 'remove') {
      const { status } = machine.rtas('ibm,remove-pe-dma-window', [step.liobn], 1);
      const window = own.find(({ liobn }) => liobn === BigInt(step.liobn));
      expect(status).toBe(window === undefined ? RTAS_PARAMETER_ERROR : refused() ? RTAS_HARDWARE_ERROR : RTAS_SUCCESS);
      if (status !== 0 || window === undefined) return;
      const rest = own.filter((other) => other !== window);
      const isDefault = window.liobn === 0x80000000n && window.pages === 4096n && window.pageLg2 === 12n;
      model.windows = [...(rest.length === 0 && !isDefault ? defaults : rest), ...others];
    } else {
      const { status, cells } = machine.rtas('ibm,create-pe-dma-window', [...unit(buid), step.pageLg2, step.windowLg2], 4);
      const tces = 2 ** (step.windowLg2 - step.pageLg2);
      const possible = step.pageLg2 !== 24 && tces >= 1 && tces <= 2 ** 16 && own.length < 2;
      expect(status).toBe(!possible ? RTAS_PARAMETER_ERROR : refused() ? RTAS_HARDWARE_ERROR : RTAS_SUCCESS);
      if (status !== 0) return;
      const start = joinHiLo(cells[2], cells[3]);
      const made = model.window(0, BigInt(cells[1]), start, BigInt(step.pageLg2), BigInt(tces));
      for (const { liobn, start: other, pages, pageLg2 } of own) {
        expect(liobn).not.toBe(made.liobn);
        expect(start >= other + (pages << pageLg2) || other >= start + (1n << BigInt(step.windowLg2))).toBe(true);
      }
      model.windows.push(made);
    }
  }

  /** Enumeration, software translation, hardware and model mean the same by every run that is mapped, and by its neighbours. */
  compare(): void {
    const { iommu } = this.machine;
    bridges.forEach(({ endpoints }, bridge) => {
      const space = iommu.spaceOf(endpoints[0])!;
      const pages = this.model.pages(bridge);
      const runs = runsOf(space);
      expect(runs).toEqual(coalesce(pages));
      const probes = runs.flatMap(({ iova, pages: count }) => [
        Math.max(iova - 1, 0),
        iova,
        iova + (count >> 1),
        iova + count - 1,
        iova + count,
      ]);
      const expected = probes.map((pfn) => pages.get(pfn) ?? null);
      expect(probes.map((pfn) => this.hardware.lookUp(space, pfn))).toEqual(expected);
      expect(probes.map((pfn) => this.#software(endpoints[0], pfn))).toEqual(expected);
    });
  }

  /** What software translation says of a bus page: guest page and permission, or null. */
  #software(endpoint: number, pfn: number): readonly [number, number] | null {
    const { iommu } = this.machine;
    const { translated } = iommu;
    const allows = (access: number) => iommu.translate(endpoint, -1, hiOfPfn(pfn), loOfPfn(pfn) | 0x123, access) > 0;
    const permission = (allows(READ) ? READ : 0) | (allows(WRITE) ? WRITE : 0);
    if (permission === 0) return null;
    const whole = allows(permission) && (permission === READ_WRITE || !allows(READ_WRITE)) && (translated[0] & 0xfff) === 0x123;
    return whole ? [pfnOfHiLo(translated[1], translated[0]), permission] : [-1, -1];
  }
}

describe('guest programs', () => {
  const answered = reaching('answers', 'a program of more than forty steps', 'a window created', 'a window removed', 'a mapped page');
  test.prop([program], { numRuns: 40 })("every answer is the specification's, and software, hardware and model agree", (steps) => {
    answered();
    if (steps.length > 40) answered('a program of more than forty steps');
    const trial = new Trial();
    for (const step of steps) {
      const windows = trial.model.windows.length;
      trial.run(step);
      trial.compare();
      if (trial.model.windows.length > windows) answered('a window created');
      if (trial.model.windows.length < windows) answered('a window removed');
      if (trial.model.pages(0).size > 0) answered('a mapped page');
    }
  });

  test.prop([program], { numRuns: 6 })('whichever flush fails: the guest that is told so has the old state, on both sides', (steps) => {
    const whole = new Trial();
    for (const step of steps) whole.run(step);
    for (let failAt = 1; failAt <= whole.hardware.flushes; failAt++) {
      const trial = new Trial(failAt);
      for (const step of steps) {
        trial.run(step);
        if (trial.hardware.flushes >= failAt) trial.compare();
      }
      expect(trial.hardware.failures).toBe(1);
    }
  });

  const saved = reaching('save and load', 'a save point', 'a step after it');
  test.prop([program, fc.nat(60)], { numRuns: 30 })(
    'saved and loaded at any point: the rest is as if nothing had happened',
    (steps, point) => {
      saved();
      const straight = new Trial();
      const trial = new Trial();
      steps.forEach((step, i) => {
        straight.run(step);
        if (i > point) saved('a step after it');
        if (i === point) {
          saved('a save point');
          const state = JSON.parse(JSON.stringify(trial.machine.iommu.save())) as unknown;
          trial.machine = new TestMachine();
          trial.hardware = new Hardware();
          trial.machine.iommu.observe(trial.hardware);
          trial.machine.iommu.load(state);
          trial.compare();
        }
        trial.run(step);
      });
      trial.compare();
      expect(trial.machine.iommu.save()).toEqual(straight.machine.iommu.save());
    },
  );
});
