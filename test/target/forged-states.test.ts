import { fc, test as property } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { READ, WRITE } from '../../src/memory/access.ts';
import { reaching } from '../reaching.ts';
import { amdSubject } from './amd/subject.ts';
import { forged, forgeries } from './forged-states.ts';
import { Hardware } from './hardware.ts';
import { riscvSubject } from './riscv/subject.ts';
import { smmuSubject } from './smmuv3/subject.ts';
import { spaprSubject } from './spapr/subject.ts';
import type { TargetFixture, TargetSubject } from './suite.ts';
import { virtioSubjects } from './virtio-iommu/subject.ts';
import { legacySubject, scalableSubject } from './vtd/subject.ts';
import { zpciSubject } from './zpci/subject.ts';

/*
 * A saved state is data from outside: its numbers may be any. One rule for all targets: what no guest could have brought about is refused by
 * name, and nothing has changed; or it is left out, and what is there afterwards is a state like any other.
 */

/** More rounds than a queue has entries come of work that does not end. */
const ROUNDS = 100;

function finish({ later = [] }: TargetFixture<never>): void {
  for (let round = 0; round < ROUNDS && later.length > 0; round++) later.shift()!();
  expect(later.length, 'work that does not come to its end').toBe(0);
}

function forgedStates<Step>(subject: TargetSubject<Step>): void {
  const reached = reaching(`${subject.name}: forged states`, 'refused', 'taken');
  property.prop([forgeries, fc.array(subject.hostile, { maxLength: 8 })], { numRuns: 30 })(`${subject.name}`, (changes, acts) => {
    reached();
    const fixture = subject.make();
    const { target, endpoints } = fixture;
    const hardware = new Hardware(target, endpoints);
    target.observe(hardware);
    for (const step of [...subject.mapping, ...(subject.processes ?? [])]) fixture.run(step);
    const before = JSON.parse(JSON.stringify(target.save()));
    try {
      target.load(forged(before, changes));
    } catch (error) {
      reached('refused');
      expect(error).toBeInstanceOf(TypeError);
      expect((error as Error).message).toMatch(/^(AmdIommu|RiscvIommu|Smmuv3|SpaprIommu|Virtio\w+|VtdIommu|ZpciIommu): /);
      expect(target.save()).toEqual(before);
      hardware.expectAgreement();
      return;
    }
    reached('taken');
    hardware.expectNothingStale();
    const held = target.save();
    target.load(JSON.parse(JSON.stringify(held)));
    expect(target.save()).toEqual(held);
    finish(fixture as TargetFixture<never>);
    for (const { act } of acts) act(fixture);
    for (const endpoint of endpoints) for (const access of [READ, WRITE]) target.translate(endpoint, -1, 0, 0x5000, access);
    finish(fixture as TargetFixture<never>);
    hardware.expectNothingStale();
    target.load(JSON.parse(JSON.stringify(target.save())));
    target.reset();
    expect(target.save()).toEqual(subject.make(fixture).target.save());
  });
}

describe('a saved state whose numbers nobody saved: refused by name, or as good as any', () => {
  for (const subject of [amdSubject, smmuSubject, legacySubject, scalableSubject, riscvSubject, zpciSubject, spaprSubject])
    forgedStates(subject as TargetSubject<unknown>);
  for (const subject of virtioSubjects.filter((_, i) => i % 3 === 0)) forgedStates(subject as TargetSubject<unknown>);
});
