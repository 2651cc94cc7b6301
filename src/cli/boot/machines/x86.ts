import { type GuestChoices, kernelCommandLine, machineArguments, type RunFiles } from '../recipe.ts';

/** A q35 machine, and the kernel's command line. */
export function x86Arguments(choices: GuestChoices, files: RunFiles, commandLine: readonly string[]): readonly string[] {
  // QEMU's own I/O APIC does not ask the IOMMU where interrupts go, so the timer must not depend on it.
  const remapped = choices.remap ? ['tsc=reliable'] : [];
  // Linux would try the timer for some milliseconds, and panic where the machine is too busy to deliver it in them.
  const append = kernelCommandLine('ttyS0', choices, ['no_timer_check', ...commandLine, ...remapped]);
  return [
    ...machineArguments('q35', ['-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', `${choices.cpus}`]),
    ...['-kernel', files.kernel, '-initrd', files.initrd, '-append', append],
  ];
}
