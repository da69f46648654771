"""The long options of sbatch, as data: those a site may set, and those that are ours."""

_KNOWN = """
acctg-freq batch bb bbf begin bell burst-buffer cluster-constraint clusters constraint container container-id
contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot dependency
distribution exclude exclusive export-file extra-node-info gid gpu-bind gpu-freq gpus gpus-per-node
gpus-per-socket gpus-per-task gres gres-flags hint hold immediate kill-on-invalid-dep licenses
mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network nice no-kill
no-requeue nodefile nodelist ntasks-per-core ntasks-per-gpu ntasks-per-socket overcommit oversubscribe power
prefer priority profile propagate reboot requeue resv-ports segment sockets-per-node spread-job stepmgr
switches thread-spec threads-per-core time time-min tmp tres-per-task uid use-min-nodes wait-all-nodes wckey
"""
_OURS = """
array chdir comment error export get-user-env help ignore-pbs input job-name nodes ntasks ntasks-per-node
open-mode output parsable quiet signal test-only usage verbose version wait wrap
"""

OPTIONS = frozenset(_KNOWN.split())
"""From the manual pages of Slurm 22.05 to 25.05; what a site's own plugins add is written under `extra`."""

WITH_FIELD = frozenset({"account", "partition", "qos", "reservation"})
"""Options with a field of the profile."""

OF_THE_PLAN = frozenset(_OURS.split())
"""Options that follow from the plan, or that the script of a job relies on."""

SWITCHES = frozenset({"hetjob"})
"""What a site says under `directives` that is no option of sbatch."""
