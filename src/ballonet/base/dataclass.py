"""Data classes for the modules that every command loads: the part of :mod:`dataclasses` that they use.

The standard decorator compiles up to six methods for each class. With its own imports, that was a quarter of the
processor time of ``ballonet exec``. Here all classes share their methods. To a type checker these are the standard
functions; at run time, the standard functions accept these classes and their instances.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import MISSING as MISSING
    from dataclasses import Field as Field
    from dataclasses import asdict as asdict
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import fields as fields
    from dataclasses import is_dataclass as is_dataclass
    from dataclasses import replace as replace
else:

    class _Missing:
        def __repr__(self):
            return "MISSING"

    MISSING = _Missing()

    class Field:
        """One field. See :func:`dataclasses.field`."""

        __slots__ = ("compare", "default", "default_factory", "init", "kw_only", "name", "repr", "type")

        def __init__(
            self,
            default=MISSING,
            *,
            default_factory=MISSING,
            init=True,
            repr=True,
            compare=True,
            kw_only=MISSING,
        ):
            self.name = self.type = None
            self.default = default
            self.default_factory = default_factory
            self.init = init
            self.repr = repr
            self.compare = compare
            self.kw_only = kw_only

    field = Field

    def dataclass(cls=None, /, *, frozen=False, eq=True, kw_only=False, slots=False):
        """See :func:`dataclasses.dataclass`. Annotations must be strings (``from __future__ import annotations``)."""

        def decorate(cls):
            return _process(cls, frozen=frozen, eq=eq, kw_only=kw_only, slots=slots)

        return decorate if cls is None else decorate(cls)

    def fields(of):
        """See :func:`dataclasses.fields`."""
        return tuple(_shape(of).fields.values())

    def is_dataclass(of):
        """See :func:`dataclasses.is_dataclass`; true for classes of this module only."""
        return hasattr(of, "_dataclass_shape")

    def replace(instance, /, **changes):
        """See :func:`dataclasses.replace`."""
        given = {
            field.name: getattr(instance, field.name)
            for field in _shape(instance).fields.values()
            if field.init
        }
        return type(instance)(**given | changes)

    def asdict(instance):
        """See :func:`dataclasses.asdict`."""
        return {name: _plain(getattr(instance, name)) for name in _shape(instance).fields}

    def _plain(value):
        kind = type(value)
        if hasattr(kind, "_dataclass_shape"):
            return asdict(value)
        if kind is dict:
            return {_plain(key): _plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            items = map(_plain, value)
            return kind(*items) if hasattr(kind, "_fields") else kind(items)
        return value

    class _Shape:
        """What is known of a class."""

        def __init__(self, fields, *, frozen, eq):
            self.fields = fields
            self.frozen, self.eq = frozen, eq
            of_init = [field for field in fields.values() if field.init]
            self.positional = tuple(field.name for field in of_init if not field.kw_only)
            self.of_init = frozenset(field.name for field in of_init)
            self.defaults = {field.name: field.default for field in of_init if field.default is not MISSING}
            self.factories = {
                field.name: field.default_factory
                for field in fields.values()
                if field.default_factory is not MISSING
            }
            self.compared = tuple(field.name for field in fields.values() if field.compare)

        def values(self, name, args, given):
            """The values that an instance gets. :raises TypeError: the arguments do not fit."""
            values = self.defaults | given
            if args:
                if len(args) > len(self.positional):
                    most = len(self.positional) + 1
                    raise TypeError(
                        f"{name}.__init__() takes {most} positional arguments but {len(args) + 1} were given"
                    )
                for key, value in zip(self.positional, args, strict=False):
                    if key in given:
                        raise TypeError(f"{name}.__init__() got multiple values for argument {key!r}")
                    values[key] = value
            for key, factory in self.factories.items():
                if key not in values:
                    values[key] = factory()
            if not self.of_init.issuperset(given):
                wrong = next(key for key in given if key not in self.of_init)
                raise TypeError(f"{name}.__init__() got an unexpected keyword argument {wrong!r}")
            if not self.of_init <= values.keys():
                missing = [key for key in self.fields if key in self.of_init and key not in values]
                raise TypeError(f"{name}.__init__() misses arguments: {', '.join(map(repr, missing))}")
            return values

    def _shape(of):
        try:
            return of._dataclass_shape
        except AttributeError:
            raise TypeError(f"{of!r} is not a dataclass of ballonet.base.dataclass") from None

    def _process(cls, *, frozen, eq, kw_only, slots):
        found = {}
        for base in reversed(cls.__mro__[1:]):
            if (shape := base.__dict__.get("_dataclass_shape")) is not None:
                found |= shape.fields
        own = cls.__dict__.get("__annotations__", {})  # noqa: RUF063  # inspect takes long to load
        for name, kind in own.items():
            if kind.startswith("ClassVar"):
                continue
            default = cls.__dict__.get(name, MISSING)
            each = default if isinstance(default, Field) else Field(default)
            each.name, each.type = name, kind
            if each.kw_only is MISSING:
                each.kw_only = kw_only
            if isinstance(default, Field):
                if default.default is MISSING:
                    delattr(cls, name)
                else:
                    setattr(cls, name, default.default)
            found[name] = each
        shape = _Shape(found, frozen=frozen, eq=eq)
        methods = {"__init__": _init_slots if slots else _init, "__repr__": _repr}
        if eq:
            methods["__eq__"] = _eq
            methods["__hash__"] = _hash if frozen else None
        if frozen:
            methods |= {"__setattr__": _refuse_set, "__delattr__": _refuse_delete}
        if frozen and slots:
            methods |= {"__getstate__": _get_state, "__setstate__": _set_state}
        for name, method in methods.items():
            if name not in cls.__dict__ or cls.__dict__[name] is None:
                setattr(cls, name, method)
        cls._dataclass_shape = shape
        cls.__match_args__ = shape.positional
        cls.__dataclass_fields__ = _STANDARD_FIELDS
        cls.__dataclass_params__ = _STANDARD_PARAMS
        cls.__signature__ = _SIGNATURE
        return _with_slots(cls, found) if slots else cls

    def _with_slots(cls, found):
        """A class with ``__slots__``, which cannot be added to one that exists."""
        body = {name: value for name, value in cls.__dict__.items() if name not in found}
        body.pop("__dict__", None)
        body.pop("__weakref__", None)
        body["__slots__"] = tuple(found)
        made = type(cls)(cls.__name__, cls.__bases__, body)
        made.__qualname__ = cls.__qualname__
        return made

    def _init(self, /, *args, **given):
        self.__dict__.update(self._dataclass_shape.values(type(self).__qualname__, args, given))
        if hasattr(self, "__post_init__"):
            self.__post_init__()

    def _init_slots(self, /, *args, **given):
        values = self._dataclass_shape.values(type(self).__qualname__, args, given)
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if hasattr(self, "__post_init__"):
            self.__post_init__()

    def _repr(self):
        shown = (field.name for field in self._dataclass_shape.fields.values() if field.repr)
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def _compared(self):
        return tuple([getattr(self, name) for name in self._dataclass_shape.compared])

    def _eq(self, other):
        return _compared(self) == _compared(other) if type(other) is type(self) else NotImplemented

    def _hash(self):
        return hash(_compared(self))

    def _refuse_set(self, name, value):
        _refuse("assign to", name)

    def _refuse_delete(self, name):
        _refuse("delete", name)

    def _refuse(what, name):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot {what} field {name!r}")

    def _get_state(self):
        return [getattr(self, name) for name in self._dataclass_shape.fields]

    def _set_state(self, state):
        for name, value in zip(self._dataclass_shape.fields, state, strict=True):
            object.__setattr__(self, name, value)

    class _Made:
        """An attribute of a class that is made when something asks for it."""

        def __init__(self, make):
            self._make = make

        def __get__(self, instance, owner):
            return self._make(owner)

    def _standard_fields(cls):
        """What :mod:`dataclasses` keeps of a class, for its own functions."""
        import dataclasses

        standard = {}
        for each in _shape(cls).fields.values():
            made = dataclasses.field(
                default=dataclasses.MISSING if each.default is MISSING else each.default,
                default_factory=(
                    dataclasses.MISSING if each.default_factory is MISSING else each.default_factory
                ),
                init=each.init,
                repr=each.repr,
                compare=each.compare,
                kw_only=each.kw_only,
            )
            made.name, made.type, made._field_type = each.name, each.type, dataclasses._FIELD
            standard[each.name] = made
        return standard

    def _standard_params(cls):
        import dataclasses

        shape = _shape(cls)
        return dataclasses._DataclassParams(
            init=True, repr=True, eq=shape.eq, order=False, unsafe_hash=False, frozen=shape.frozen
        )

    def _signature(cls):
        from inspect import Parameter, Signature

        parameters = [
            Parameter(
                each.name,
                Parameter.KEYWORD_ONLY if each.kw_only else Parameter.POSITIONAL_OR_KEYWORD,
                default=(
                    Parameter.empty
                    if each.default is MISSING and each.default_factory is MISSING
                    else each.default
                ),
                annotation=each.type,
            )
            for each in _shape(cls).fields.values()
            if each.init
        ]
        return Signature(sorted(parameters, key=lambda each: each.kind), return_annotation=None)

    _STANDARD_FIELDS = _Made(_standard_fields)
    _STANDARD_PARAMS = _Made(_standard_params)
    _SIGNATURE = _Made(_signature)
