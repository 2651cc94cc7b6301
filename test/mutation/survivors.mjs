import { readFileSync } from 'node:fs';

/** What was, and what it became, of a mistake that nobody noticed. Stryker counts lines and columns from 1. */
function survivor({ fileName, location: { start, end }, mutatorName, replacement, status }) {
  const lines = readFileSync(fileName, 'utf8')
    .split('\n')
    .slice(start.line - 1, end.line);
  const was = lines.length === 1 ? lines[0].slice(start.column - 1, end.column - 1) : `${lines[0].slice(start.column - 1)} …`;
  const file = fileName.replace(`${process.cwd()}/`, '');
  return `${file}:${start.line}  ${mutatorName}${status === 'NoCoverage' ? ' (no test runs it)' : ''}\n  - ${was}\n  + ${replacement}`;
}

/** Says at once what nobody noticed, so that a run that is ended early has said something. Stryker's workers load it too, without tsx. */
class Survivors {
  tested = 0;
  total = 0;

  onMutationTestingPlanReady({ mutantPlans }) {
    this.total = mutantPlans.filter(({ plan }) => plan === 'Run').length;
  }

  onMutantTested(mutant) {
    const { status } = mutant;
    const unnoticed = status === 'Survived' || status === 'NoCoverage';
    if (unnoticed) console.log(survivor(mutant));
    if (status !== 'Ignored' && status !== 'NoCoverage') {
      this.tested++;
      if (process.env['VIOMMU_MUTATION_VERBOSE']) {
        const { start } = mutant.location;
        console.error(
          `${this.tested}/${this.total} ${status} ${mutant.fileName.replace(`${process.cwd()}/`, '')}:${start.line} ${mutant.mutatorName} ${mutant.testsCompleted} tests`,
        );
      }
    }
  }
}

export const strykerPlugins = [{ kind: 'Reporter', name: 'survivors', injectableClass: Survivors }];
