"""The search: problems in, the fastest configurations that were proven correct out.

    cases       inputs and float64 references of a problem
    verify      is a generated module right on every element?
    timing      medians, their intervals, and when to stop sampling
    sampling    samples of a call's time on a GPU
    jobs        what the parent and the worker process say to each other
    child       the worker process: answers jobs, turns failures into data
    runner      what the worker process does on its GPU
    process     one worker process as its parent sees it
    worker      evaluates plans: times out, replaces the process, never falls with it
    builders    plans compiled ahead of need, in processes of their own
    occupancy   how many programs live on an SM, and what does not fit one
    work        what a launch has to move and to compute
    predict     a stated model of a kernel's time, for a GPU that is not there
    evaluators  what a plan is worth: measured, or predicted
    target      the GPU that is tuned for, in this machine or not
    grid        a space's feasible configs, and which lie next to which
    study       evaluations on disk, and what Optuna proposes (only this, storage and stored import it)
    search      which config of a kernel to evaluate next
    stored      what earlier searches have left, and what they depended on
    compose     complete plans made of tuned kernels
    tune        a problem's kernels, then its plans, then an entry for the cache
    doctor      do entries still hold, here and today?

Nothing here is imported when a model calls ``latune.lightning_attn``.
"""
